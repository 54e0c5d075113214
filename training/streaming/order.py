"""Step -> samples, as a pure function of (shards, seed, stage, step).

The number of finished steps is the whole state of the data: a run goes on with the same batches on another number of
workers, whoever reads them. Streams are infinite and an epoch of a data set may end inside a batch, so nothing is ever
dropped: in each epoch of a stream every sample of it comes once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch

from modeling.conditioning import given_frames
from modeling.settings import GivenFrames
from training.config import DataConfig, StageConfig
from training.randomness import generator_at
from training.streaming.buckets import Bucket, Rows, StagePlan, fitting_stride
from training.streaming.index import Clip, SampleIndex
from training.streaming.interleave import Interleave, permutation, whole_counts

_DRAWS = 6
"""Random numbers that a sample takes."""
_MIN_CYCLE = 1000
"""Of what is mixed: of fewer, a stated share would be rounded."""
_MAX_CYCLE = 2**22
"""Of steps; with weights that lie far apart a cycle in which every sample comes once would not end."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One place of a global batch: a clip, and what of it to train on."""

    clip: Clip
    caption_number: int
    """Which of the captions of the clip is shown."""
    frame_indices: tuple[int, ...]
    stride: int
    crop: tuple[float, float] | None
    """Where the crop lies between top and bottom and between left and right, from 0 to 1; None at the centre."""
    flips: bool
    """Left and right exchanged."""
    given: tuple[bool, ...]
    """For each frame, whether it is given."""

    @property
    def caption(self) -> str:
        captions = self.clip.captions
        return captions[self.caption_number] if captions else ""


class SampleOrder:
    """Which samples a step trains on."""

    def __init__(
        self,
        index: SampleIndex,
        plan: StagePlan,
        key: tuple[int, str],
        stage: StageConfig,
        data: DataConfig,
    ) -> None:
        """`key` is (seed, stage name)."""
        self._arguments = (index, plan, key, stage, data)
        self._index = index
        self._plan = plan
        self._key = key
        self._stage = stage
        self._data = data
        # As many steps as draw every sample about once.
        steps = [bucket.share / bucket.batch_size for bucket in plan.buckets]
        most = max(
            b.num_samples / b.batch_size / s for b, s in zip(plan.buckets, steps, strict=True)
        )
        total = min(_MAX_CYCLE, max(_MIN_CYCLE, round(most * sum(steps))))
        self._schedule = Interleave(whole_counts(steps, total), (*key, "schedule"))
        self._datasets = cache(self._mix_datasets)
        # The draws of two steps: each worker draws those of the whole batch, which costs less than to seed for each sample.
        self._draws = lru_cache(maxsize=2)(self._draw_step)
        self._permutation = lru_cache(maxsize=4 * len(plan.buckets))(self._draw_permutation)

    def __reduce__(self) -> tuple[Any, ...]:
        """A loader process draws the order anew."""
        return SampleOrder, self._arguments

    def bucket(self, step: int) -> tuple[Bucket, int]:
        """The shape of a step and the size of its global batch."""
        planned = self._plan.buckets[self._schedule.at(step)[0]]
        return planned.bucket, planned.batch_size

    def sample(self, step: int, place: int, attempt: int = 0) -> Sample:
        """The sample at one place of the global batch of a step.

        `attempt` counts the samples at this place that could not be read; each has another one in its stead.
        """
        number, batch = self._schedule.at(step)
        planned = self._plan.buckets[number]
        if attempt == 0:
            position = batch * planned.batch_size + place
            dataset, nth = self._datasets(number).at(position)
            rows = planned.rows[dataset]
            epoch, rank = divmod(nth, len(rows))
            row = int(rows[self._permutation(number, dataset, epoch)[rank]])
        else:
            row = self._spare(number, step, place, attempt)
        return self._draw(self._index.clip(row), planned.bucket, (step, place, attempt))

    def _spare(self, number: int, step: int, place: int, attempt: int) -> int:
        rows = self._plan.buckets[number].rows
        generator = generator_at(*self._key, "spare", step, place, attempt)
        chosen = int(torch.randint(sum(map(len, rows)), (1,), generator=generator))
        for mine in rows:
            if chosen < len(mine):
                return int(mine[chosen])
            chosen -= len(mine)
        raise AssertionError("the number is below the sum of all lengths")

    def _draw(self, clip: Clip, bucket: Bucket, where: tuple[int, int, int]) -> Sample:
        """What of the clip is trained on, drawn for one place of one step."""
        num_frames = bucket.num_frames
        stride = fitting_stride(clip.num_frames, num_frames, self._data.sampling_stride)
        span = (num_frames - 1) * stride + 1
        step, place, attempt = where
        draws = self._draws(step)[place] if attempt == 0 else self._draw_spare(where)
        start, caption, flips, top, left, given = draws
        first = int(start * (clip.num_frames - span + 1))
        # Latents were cut out at the centre when they were made.
        is_whole = clip.media != "latents"
        return Sample(
            clip=clip,
            caption_number=choose_caption(
                clip.caption_sources, self._data.caption_weights, caption
            ),
            frame_indices=tuple(range(first, first + span, stride)),
            stride=stride,
            crop=(top, left) if is_whole and self._data.random_crop else None,
            flips=is_whole and flips < self._data.flip_prob,
            given=self._given(num_frames, given),
        )

    def _draw_step(self, step: int) -> list[list[float]]:
        """Numbers from 0 to 1 for each place of the global batch."""
        generator = generator_at(*self._key, "sample", step)
        size = (self.bucket(step)[1], _DRAWS)
        return torch.rand(size, generator=generator, dtype=torch.float64).tolist()

    def _draw_spare(self, where: tuple[int, int, int]) -> list[float]:
        generator = generator_at(*self._key, "sample", *where)
        return torch.rand(_DRAWS, generator=generator, dtype=torch.float64).tolist()

    def _given(self, num_frames: int, draw: float) -> tuple[bool, ...]:
        which: GivenFrames = "none"
        if self._stage.task == "stiv" and num_frames > 1:
            which = self._stage.given[int(draw * len(self._stage.given))]
        return _given(which, num_frames)

    def _mix_datasets(self, number: int) -> Interleave:
        sizes = [len(mine) for mine in self._plan.buckets[number].rows]
        weights = self._plan.dataset_weights
        drawn: list[float] = list(sizes)
        if weights is not None:
            # A data set's weight is divided among its buckets as its samples are; single frames are a mixture of their own.
            is_single = self._plan.buckets[number].bucket.num_frames == 1
            alike = [b for b in self._plan.buckets if (b.bucket.num_frames == 1) == is_single]
            wholes = [sum(len(bucket.rows[d]) for bucket in alike) for d in range(len(sizes))]
            drawn = [
                weight * size / max(whole, 1)
                for weight, size, whole in zip(weights, sizes, wholes, strict=True)
            ]
        total = sum(sizes) if weights is None else max(_MIN_CYCLE, sum(sizes))
        return Interleave(whole_counts(drawn, total), (*self._key, "mixture", number))

    def _draw_permutation(self, number: int, dataset: int, epoch: int) -> Rows:
        size = len(self._plan.buckets[number].rows[dataset])
        return permutation(size, *self._key, "epoch", number, dataset, epoch)


def choose_caption(sources: Sequence[str], weights: Mapping[str, float], draw: float) -> int:
    """Which of the captions of these sources a draw from 0 to 1 shows (`DataConfig.caption_weights`)."""
    if not weights or len(sources) < 2:
        return 0
    shares = [
        weights[source] / sources.count(source)
        if source in weights
        else weights.get("main", 0.0) * (number == 0)
        for number, source in enumerate(sources)
    ]
    left = draw * sum(shares)
    for number, share in enumerate(shares):
        if left < share:
            return number
        left -= share
    return 0


@cache
def _given(which: GivenFrames, num_frames: int) -> tuple[bool, ...]:
    return tuple(given_frames(which, num_frames).tolist())


def rank_places(batch_size: int, rank: int, world_size: int) -> range:
    """The places of one worker's slice of a global batch: as many as others have, or one more or less."""
    assert batch_size >= world_size, "the config checks this"
    return range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
