"""The batches of one worker in order: read ahead by processes that may die, from storage that may stall."""

import logging
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.config import DataConfig
from training.errors import DataError
from training.latents import LATENT_DTYPE, PackedTexts
from training.streaming.buckets import Bucket, StagePlan
from training.streaming.order import Sample, SampleOrder, rank_places
from training.streaming.processes import ProcessLostError, ahead
from training.streaming.reading import ReadSample, SampleReader, Shape

logger = logging.getLogger(__name__)

_MAX_ATTEMPTS = 8
"""Samples that are tried for one place of a batch before the data is held to be broken."""
_WIDTHS = 2
"""Of tokens and of pooled vectors, one each."""
_MIN_SEEN = 1000
"""The share of skipped samples is taken of at least so many."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sample that could not be read, and why."""

    clip_id: str
    reason: str


@dataclass(frozen=True)
class LoadedBatch:
    """One worker's slice of a global batch, before the frozen encoders."""

    step: int
    bucket: Bucket
    batch_size: int
    """Of the global batch."""
    places: range
    """Of this slice in the global batch."""
    samples: list[Sample]
    frames_NFHWC: Tensor | None
    """Of the samples that are not encoded yet, in order."""
    latents_NFCHW: Tensor | None
    """Of the samples that are, in order; float16."""
    texts: PackedTexts | None
    """Of the samples that are, in order."""
    skipped: list[Skipped]


class BatchLoader:
    """Iterates over the batches of the steps from one on, the same with any number of loader processes.

    A process that dies, or does not give its batch in time, is replaced together with the others, and reading goes on
    at the batch that was waited for. A sample that cannot be read is replaced by another one of its bucket, drawn as a
    function of its place alone, and counted.

    Raises:
        DataError: too many samples cannot be read, or processes die again and again.
    """

    def __init__(
        self,
        order: SampleOrder,
        reader: SampleReader,
        data: DataConfig,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._steps = _Steps(order, reader, rank, world_size)
        self._data = data
        self.num_seen = 0
        self.num_skipped = 0
        self.num_restarts = 0

    def batches(self, first_step: int, num_steps: int) -> Iterator[LoadedBatch]:
        """The batches of the steps from `first_step` up to `num_steps`."""
        step = first_step
        while step < num_steps:
            try:
                for batch in self._read_ahead(range(step, num_steps)):
                    self._count(batch)
                    step = batch.step + 1
                    yield batch
            except ProcessLostError as error:
                self.num_restarts += 1
                if self.num_restarts > self._data.max_loader_restarts:
                    raise DataError(
                        f"loader processes failed {self.num_restarts} times, last before step {step + 1}: "
                        f"{error}; set data.loader_workers=0 to see the error, or raise data.timeout_s"
                    ) from error
                logger.warning("starting the loader again at step %d: %s", step + 1, error)

    def _read_ahead(self, steps: range) -> Iterator[LoadedBatch]:
        data = self._data
        if data.loader_workers == 0:
            yield from map(self._steps.batch, steps)
            return
        yield from ahead(
            self._steps.batch, steps, data.loader_workers, data.prefetch_batches, data.timeout_s
        )

    def _count(self, batch: LoadedBatch) -> None:
        self.num_seen += len(batch.samples)
        self.num_skipped += len(batch.skipped)
        for skipped in batch.skipped:
            logger.warning(
                "step %d: skipped %s: %s", batch.step + 1, skipped.clip_id, skipped.reason
            )
        allowed = self._data.max_skipped_share * max(self.num_seen, _MIN_SEEN)
        if self.num_skipped > allowed:
            last = batch.skipped[-1]
            raise DataError(
                f"{self.num_skipped} of {self.num_seen} samples could not be read, more than "
                f"data.max_skipped_share={self._data.max_skipped_share:g} allows; the last was {last.clip_id}: "
                f"{last.reason}"
            )


class _Steps:
    """Step -> batch: what the loader processes run."""

    def __init__(
        self, order: SampleOrder, reader: SampleReader, rank: int, world_size: int
    ) -> None:
        self._order, self._reader = order, reader
        self._rank, self._world_size = rank, world_size

    def batch(self, step: int) -> LoadedBatch:
        bucket, batch_size = self._order.bucket(step)
        places = rank_places(batch_size, self._rank, self._world_size)
        skipped: list[Skipped] = []
        latents = _LatentRows(len(places))
        found: list[tuple[Sample, ReadSample]] = []
        for place in places:
            found.append(self._read(step, place, bucket, (latents, skipped)))
            latents.num_filled += found[-1][1].latents_FCHW is not None
        frames = [read.frames_FHWC for _, read in found if read.frames_FHWC is not None]
        return LoadedBatch(
            step=step,
            bucket=bucket,
            batch_size=batch_size,
            places=places,
            samples=[sample for sample, _ in found],
            frames_NFHWC=torch.from_numpy(np.stack(frames)) if frames else None,
            latents_NFCHW=latents.filled(),
            texts=_packed([read for _, read in found]),
            skipped=skipped,
        )

    def _read(
        self, step: int, place: int, bucket: Bucket, out: tuple["_LatentRows", list[Skipped]]
    ) -> tuple[Sample, ReadSample]:
        latents, skipped = out
        for attempt in range(_MAX_ATTEMPTS):
            sample = self._order.sample(step, place, attempt)
            try:
                return sample, self._reader.read(sample, bucket, latents.next_row)
            except DataError as error:
                skipped.append(Skipped(sample.clip.clip_id, str(error)))
        raise DataError(
            f"step {step + 1}: {_MAX_ATTEMPTS} samples one after the other could not be read, the last: "
            f"{skipped[-1].reason}"
        )


def _packed(samples: Sequence[ReadSample]) -> PackedTexts | None:
    tokens = [sample.tokens_LD for sample in samples if sample.tokens_LD is not None]
    pooled = [sample.pooled_D for sample in samples if sample.pooled_D is not None]
    if not tokens:
        return None
    if len({text.shape[1] for text in tokens} | {-text.shape[0] for text in pooled}) > _WIDTHS:
        raise DataError(
            "text features of several widths in a batch; encode all data sets with the same text encoder"
        )
    return PackedTexts(
        tokens_TD=torch.from_numpy(np.concatenate(tokens)),
        lengths=tuple(map(len, tokens)),
        pooled_ND=torch.from_numpy(np.stack(pooled)),
    )


class _LatentRows:
    """The latents of a batch, each read to where it stays."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._rows_NFCHW: NDArray[np.float16] | None = None
        self.num_filled = 0

    def next_row(self, shape_FCHW: Shape) -> NDArray[np.float16]:
        if self._rows_NFCHW is None:
            self._rows_NFCHW = np.empty((self._num_rows, *shape_FCHW), LATENT_DTYPE)
        if self._rows_NFCHW.shape[1:] != shape_FCHW:
            raise DataError(
                f"latents of shape {shape_FCHW} in a batch of {self._rows_NFCHW.shape[1:]}; "
                "encode all data sets with the same autoencoder"
            )
        return self._rows_NFCHW[self.num_filled]

    def filled(self) -> Tensor | None:
        if self._rows_NFCHW is None or not self.num_filled:
            return None
        return torch.from_numpy(self._rows_NFCHW[: self.num_filled])


def resident_mb() -> float:
    """Peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read_ahead_mb(plan: StagePlan, data: DataConfig, world_size: int) -> float:
    """What the decoded batches that one worker reads ahead take at most, in MiB."""
    sizes = [
        b.batch_size * b.bucket.num_frames * b.bucket.height_px * b.bucket.width_px * 3
        for b in plan.buckets
    ]
    ahead = data.loader_workers * data.prefetch_batches + 1
    return ahead * max(sizes) / world_size / 2**20
