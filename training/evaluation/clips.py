"""The real clips that videos are compared with, and videos read back from files, all as equal arrays."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from training.errors import EvaluationError
from training.streaming.decode import (
    MEDIA_OPTIONS,
    ClipDecodeError,
    FramesFHWC,
    decode_frames,
)
from training.streaming.index import Clip, SampleIndex
from training.streaming.interleave import permutation
from training.streaming.storage import RangeReader

MIN_REFERENCES = 2
"""What a Frechet distance needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """What every video is brought to before anything is computed."""

    num_frames: int
    stride: int
    """Of the frames taken from a real clip; generated videos have the stride of the model already."""
    height_px: int
    width_px: int

    @property
    def num_source_frames(self) -> int:
        return (self.num_frames - 1) * self.stride + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRules:
    """Which clips serve, besides being long enough."""

    needs_caption: bool = True
    may_be_fewer: bool = False
    """Than are asked for, if there are two at least; their captions are then taken again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A video to judge, and the clip that its text and given frames come from."""

    clip: Clip
    name: str
    """Of its file, without the ending."""
    is_first: bool
    """Of its clip, which is a reference once."""


def choose_clips(
    index: SampleIndex,
    num: int,
    wanted: Format,
    seed: int,
    among: NDArray[np.bool_] | None = None,
    rules: ClipRules = ClipRules(),
) -> list[Clip]:
    """`num` clips that are long enough, by chance but the same for a seed; of those `among`, if given.

    Raises:
        EvaluationError: there are not so many.
    """
    clips: list[Clip] = []
    for row in permutation(len(index), seed, "evaluate"):
        clip = index.clip(int(row))
        if clip.media == "latents":
            raise EvaluationError("the data set holds latents; give the one with the videos")
        if among is not None and not among[row]:
            continue
        if rules.needs_caption and not clip.caption:
            continue
        if clip.num_frames >= wanted.num_source_frames:
            clips.append(clip)
        if len(clips) == num:
            return clips
    if rules.may_be_fewer and len(clips) >= MIN_REFERENCES:
        return clips
    of = (
        f"the {among.sum()} clips held out from training"
        if among is not None
        else f"{len(index)} clips"
    )
    caption = "a caption and " if rules.needs_caption else ""
    raise EvaluationError(
        f"{len(clips)} of {of} have {caption}{wanted.num_source_frames} frames, "
        f"{num} are wanted; lower --num-samples, or give more clips"
    )


def samples_of(clips: Sequence[Clip], num: int) -> list[Sample]:
    """`num` videos; where the clips are fewer, each in turn gives another one, `CLIP_ID-1` and so on."""
    turns = [
        Sample(
            clip=clip, name=f"{clip.clip_id}-{turn}" if turn else clip.clip_id, is_first=not turn
        )
        for turn in range(math.ceil(num / len(clips)))
        for clip in clips
    ]
    return turns[:num]


def read_clip(reader: RangeReader, clip: Clip, wanted: Format) -> FramesFHWC:
    """The first frames of a real clip at the stride.

    Raises:
        EvaluationError: it cannot be decoded.
    """
    data = reader.read(clip.location, clip.offset, clip.size_bytes)
    frames = range(0, wanted.num_source_frames, wanted.stride)
    return _decode(data, frames, wanted, f"clip {clip.clip_id}")


def read_video(path: Path, wanted: Format) -> FramesFHWC:
    """The first frames of a video file.

    Raises:
        EvaluationError: it is missing, cannot be decoded, or is too short.
    """
    if not path.is_file():
        raise EvaluationError(f"{path} does not exist; each clip needs its video CLIP_ID.mp4")
    return _decode(path.read_bytes(), range(wanted.num_frames), wanted, str(path))


def rate_of(path: Path) -> float:
    """Frames a second of a video file, as its container says.

    Raises:
        EvaluationError: it is no video.
    """
    try:
        with av.open(io.BytesIO(path.read_bytes()), mode="r", options=MEDIA_OPTIONS) as container:
            return float(container.streams.video[0].average_rate or 0)
    except (OSError, FFmpegError, IndexError) as error:
        raise EvaluationError(f"{path} is no video ({error})") from error


def _decode(data: bytes, frames: Sequence[int], wanted: Format, what: str) -> FramesFHWC:
    try:
        return decode_frames(data, frames, (wanted.height_px, wanted.width_px))
    except ClipDecodeError as error:
        raise EvaluationError(f"{what} {error}") from error
