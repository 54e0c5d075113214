"""The real clips that videos are compared with, and videos read back from files, all as equal arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.errors import EvaluationError
from training.streaming.decode import ClipDecodeError, FramesFHWC, decode_frames
from training.streaming.index import Clip, SampleIndex
from training.streaming.interleave import permutation
from training.streaming.storage import RangeReader


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


def choose_clips(
    index: SampleIndex,
    num: int,
    wanted: Format,
    seed: int,
    among: NDArray[np.bool_] | None = None,
) -> list[Clip]:
    """`num` clips with a caption that are long enough, by chance but the same for a seed; of those `among`, if given.

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
        if clip.caption and clip.num_frames >= wanted.num_source_frames:
            clips.append(clip)
        if len(clips) == num:
            return clips
    of = (
        f"the {among.sum()} clips held out from training"
        if among is not None
        else f"{len(index)} clips"
    )
    raise EvaluationError(
        f"{len(clips)} of {of} have a caption and {wanted.num_source_frames} frames, "
        f"{num} are wanted; lower --num-samples, or give more clips"
    )


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


def _decode(data: bytes, frames: Sequence[int], wanted: Format, what: str) -> FramesFHWC:
    try:
        return decode_frames(data, frames, (wanted.height_px, wanted.width_px))
    except ClipDecodeError as error:
        raise EvaluationError(f"{what} {error}") from error
