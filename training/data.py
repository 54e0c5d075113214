"""The clips of a stage in an order that depends on nothing but the seed, and their frames.

Position p of a stage is its p-th clip: the clips of a step are the positions step * batch to
(step + 1) * batch, whoever reads them. The number of finished steps is therefore the whole state of
the data, and a run goes on with the same clips on another number of workers.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from modeling.conditioning import GivenFrames, given_frames
from training.config import DataConfig, StageConfig
from training.decode import ClipDecodeError, FramesFHWC, decode_frames
from training.errors import DataError
from training.randomness import generator_at
from training.shards import Clip, ClipShards, read_member


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """The clips a stage trains on, and how many it had to leave out."""

    clips: tuple[Clip, ...]
    num_too_short: int
    num_without_caption: int
    num_at_smaller_stride: int

    @property
    def median_fps(self) -> float:
        return float(np.median([clip.fps for clip in self.clips]))

    @property
    def median_height_px(self) -> int:
        return int(np.median([clip.original_height_px for clip in self.clips]))

    @property
    def median_width_px(self) -> int:
        return int(np.median([clip.original_width_px for clip in self.clips]))

    def summary(self) -> str:
        return (
            f"{len(self.clips)} clips ({self.num_at_smaller_stride} at a smaller stride), left out: "
            f"{self.num_too_short} too short, {self.num_without_caption} without caption"
        )


def plan_clips(
    shards: ClipShards, num_frames: int, sampling_stride: int, subset: str | None = None
) -> ClipPlan:
    """Choose the clips of a subset that hold `num_frames` frames at some stride up to `sampling_stride`.

    Raises:
        DataError: there is no such subset, or no clip is left.
    """
    chosen = [clip for clip in shards.clips if subset is None or subset in clip.subsets]
    if not chosen:
        known = sorted({name for clip in shards.clips for name in clip.subsets})
        raise DataError(
            f"no clip is in the subset {subset!r}; the shards know {', '.join(known) or 'no subset'}"
        )
    captioned = [clip for clip in chosen if clip.caption]
    clips = tuple(clip for clip in captioned if clip.num_frames >= num_frames)
    full_stride = 1 if num_frames == 1 else sampling_stride
    strides = [fitting_stride(clip.num_frames, num_frames, sampling_stride) for clip in clips]
    plan = ClipPlan(
        clips=clips,
        num_too_short=len(captioned) - len(clips),
        num_without_caption=len(chosen) - len(captioned),
        num_at_smaller_stride=sum(stride < full_stride for stride in strides),
    )
    if not clips:
        raise DataError(
            f"no usable clip: {plan.summary()}; clips need a caption and {num_frames} frames or more"
        )
    return plan


def fitting_stride(clip_frames: int, num_frames: int, sampling_stride: int) -> int:
    """The largest stride up to `sampling_stride` at which `num_frames` fit into the clip; 1 for images."""
    if num_frames == 1:
        return 1
    return max(1, min(sampling_stride, (clip_frames - 1) // (num_frames - 1)))


@dataclass(frozen=True, slots=True)
class Sample:
    """One position of the stage: a clip and the frames of it to train on."""

    clip: Clip
    caption: str
    frame_indices: tuple[int, ...]
    stride: int
    given: tuple[bool, ...]
    """For each frame, whether it is given."""


class SampleOrder:
    """Position -> sample, as a pure function of (seed, stage, epoch, place in the epoch)."""

    def __init__(
        self, plan: ClipPlan, key: tuple[int, str], stage: StageConfig, data: DataConfig
    ) -> None:
        """`key` is (seed, stage name)."""
        self._plan = plan
        self._key = key
        self._stage = stage
        self._data = data
        # Two: a batch may span the end of one epoch and the start of the next.
        self._permutation = lru_cache(maxsize=2)(self._draw_permutation)

    def sample(self, position: int) -> Sample:
        """The clip at a position, with a uniformly drawn window of its frames."""
        epoch, place = divmod(position, len(self._plan.clips))
        clip = self._plan.clips[self._permutation(epoch)[place]]
        num_frames = self._stage.num_frames
        stride = fitting_stride(clip.num_frames, num_frames, self._data.sampling_stride)
        span = (num_frames - 1) * stride + 1
        generator = generator_at(*self._key, "window", position)
        start = int(torch.randint(clip.num_frames - span + 1, (1,), generator=generator))
        return Sample(
            clip=clip,
            caption=self._caption(clip, position),
            frame_indices=tuple(range(start, start + span, stride)),
            stride=stride,
            given=self._given(position),
        )

    def _caption(self, clip: Clip, position: int) -> str:
        if clip.original_caption is None:
            return clip.caption
        generator = generator_at(*self._key, "caption", position)
        shows_original = (
            float(torch.rand(1, generator=generator)) < self._data.original_caption_prob
        )
        return clip.original_caption if shows_original else clip.caption

    def _given(self, position: int) -> tuple[bool, ...]:
        which: GivenFrames = "none"
        if self._stage.task == "stiv":
            generator = generator_at(*self._key, "given", position)
            chosen = int(torch.randint(len(self._stage.given), (1,), generator=generator))
            which = self._stage.given[chosen]
        return tuple(given_frames(which, self._stage.num_frames).tolist())

    def _draw_permutation(self, epoch: int) -> list[int]:
        generator = generator_at(*self._key, "epoch", epoch)
        return torch.randperm(len(self._plan.clips), generator=generator).tolist()


def rank_positions(step: int, batch_size: int, rank: int, world_size: int) -> range:
    """The positions of one worker's slice of a global batch."""
    assert batch_size % world_size == 0, "the config checks this"
    share = batch_size // world_size
    start = step * batch_size + rank * share
    return range(start, start + share)


class FrameStore:
    """Frames of clips at training size, decoded once for all workers and stages.

    The first clips that fit into `cache_bytes` are kept whole as files, written atomically, so
    workers and stages may share the folder; the others are decoded on every read.
    """

    def __init__(self, directory: Path, shards: ClipShards, config: DataConfig) -> None:
        self._directory = directory
        self._config = config
        self._cached: set[tuple[Path, int]] = set()
        frame_bytes = config.height_px * config.width_px * 3
        free_bytes = config.cache_bytes
        for clip in shards.clips:
            free_bytes -= clip.num_frames * frame_bytes
            if free_bytes < 0:
                break
            self._cached.add((clip.shard, clip.video.offset))
        directory.mkdir(parents=True, exist_ok=True)

    def frames(self, clip: Clip, indices: Sequence[int]) -> FramesFHWC:
        """Frames (uint8, F x height x width x RGB) at ascending indices of a clip.

        Raises:
            DataError: the clip cannot be decoded or is shorter than its record says.
        """
        if (clip.shard, clip.video.offset) not in self._cached:
            return self._decode(clip, indices)
        name = f"{clip.shard_sha256[:16]}-{clip.video.offset}.npy"
        path = self._directory / f"{self._config.height_px}x{self._config.width_px}-{name}"
        if not path.exists():
            _write_array(path, self._decode(clip, range(clip.num_frames)))
        whole: FramesFHWC = np.load(path, mmap_mode="r", allow_pickle=False)
        return np.ascontiguousarray(whole[list(indices)])

    def _decode(self, clip: Clip, indices: Sequence[int]) -> FramesFHWC:
        video = read_member(clip.shard, clip.video)
        try:
            return decode_frames(video, indices, self._config.height_px, self._config.width_px)
        except ClipDecodeError as error:
            raise DataError(
                f"clip {clip.clip_id} of {clip.shard} {error}, its record says {clip.num_frames} "
                "frames; build the data set again"
            ) from error


def _write_array(path: Path, frames: FramesFHWC) -> None:
    # Several workers may decode the same clip at once: each writes its own file, the last rename wins.
    temporary = path.with_name(f".{path.stem}-{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.save(file, frames, allow_pickle=False)
    temporary.replace(path)
