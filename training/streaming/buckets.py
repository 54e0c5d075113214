"""The plan of a stage: which samples are trained at which shape, in batches of how many."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.config import LATENT_DOWNSAMPLING, DataConfig, StageConfig
from training.errors import DataError
from training.randomness import derive_seed
from training.streaming.index import SampleIndex

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """A shape that samples are trained at."""

    num_frames: int
    height_px: int
    width_px: int

    def __str__(self) -> str:
        return f"{self.num_frames}x{self.height_px}x{self.width_px}"

    def num_tokens(self, temporal_patch: int, spatial_patch: int) -> int:
        """Of one sample, before any is masked away."""
        side_px = LATENT_DOWNSAMPLING * spatial_patch
        frames = -(-self.num_frames // temporal_patch)
        return frames * (self.height_px // side_px) * (self.width_px // side_px)


@dataclass(frozen=True, slots=True)
class PlannedBucket:
    """A bucket with its samples, of each data set apart, as rows of the index."""

    bucket: Bucket
    rows: tuple[Rows, ...]
    batch_size: int
    """Of the global batch."""
    share: float
    """Of all samples that are drawn."""
    tokens_per_sample: int

    @property
    def num_samples(self) -> int:
        return sum(len(rows) for rows in self.rows)


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What a stage trains on, and what it had to leave out."""

    buckets: tuple[PlannedBucket, ...]
    dataset_weights: tuple[float, ...] | None
    """How often each data set is drawn, against the others; None: as often as it has samples."""
    num_samples: int
    num_too_short: int
    num_without_caption: int
    num_at_smaller_stride: int
    playback: "Playback" = field(repr=False)

    def summary(self) -> str:
        """One line."""
        return (
            f"{self.num_samples} samples ({self.num_at_smaller_stride} at a smaller stride), left out: "
            f"{self.num_too_short} too short, {self.num_without_caption} without caption"
        )

    def table(self) -> str:
        """A line for each bucket: samples, share of what is drawn, batch size and tokens; nothing is padded."""
        lines = ["bucket            samples   share   batch   tokens/sample   tokens/batch"]
        lines += [
            f"{b.bucket!s:<15} {b.num_samples:>9} {b.share:>7.1%} {b.batch_size:>7} "
            f"{b.tokens_per_sample:>15} {b.batch_size * b.tokens_per_sample:>14}"
            for b in self.buckets
        ]
        return "\n".join([*lines, self.summary() + "; padded: none, dropped in an epoch: none"])


@dataclass(frozen=True, slots=True)
class Playback:
    """Medians over the samples: what sampling asks for when nobody says otherwise."""

    fps: float
    height_px: int
    width_px: int


def plan_stage(
    index: SampleIndex,
    stage: StageConfig,
    data: DataConfig,
    patches: tuple[int, int],
    sizes_elsewhere: Collection[tuple[int, int]] = (),
    *,
    held_out: bool = False,
) -> StagePlan:
    """Give every usable sample of a stage its bucket. `patches`: the temporal and the spatial one of the network.

    `sizes_elsewhere` are (height, width) that other stages of the run train at: latents of theirs are not for this one.
    Clips held out for validation take part only if `held_out` is set, and then nothing else does.

    A clip goes to the most frames that it holds, then to the nearest aspect ratio, then to the largest size that does
    not enlarge it. In a video stage with `image_share`, single frames of all samples are trained besides.

    Raises:
        DataError: no sample is usable, or a bucket has fewer samples than one batch takes.
    """
    mine = ~_has_latents_of(index, set(sizes_elsewhere) - set(data.sizes))
    usable, num_without_caption = _usable(index, stage, mine)
    if stage.validation is not None:
        usable &= is_held_out(index, stage.validation.share) == held_out
    num_frames = index.numbers("num_frames")
    long_enough = num_frames >= min(stage.frame_counts)
    rows = np.flatnonzero(usable & long_enough)
    strides = _strides(num_frames[rows], stage.num_frames, data.sampling_stride)
    full_stride = 1 if stage.num_frames == 1 else data.sampling_stride
    left_out = StagePlan(
        buckets=(),
        dataset_weights=_dataset_weights(index, data),
        num_samples=len(rows),
        num_too_short=int((usable & ~long_enough).sum()),
        num_without_caption=num_without_caption,
        num_at_smaller_stride=int((strides < full_stride).sum()),
        playback=Playback(0.0, 0, 0),
    )
    if not len(rows):
        raise DataError(
            f"no usable clip: {left_out.summary()}; clips need a caption and {min(stage.frame_counts)} "
            "frames or more"
        )
    sizes = data.sizes
    groups = [
        (1.0 - stage.image_share, rows, [Bucket(f, *s) for f in stage.frame_counts for s in sizes])
    ]
    if stage.image_share:
        images = np.flatnonzero(usable)
        groups.append((stage.image_share, images, [Bucket(1, *s) for s in sizes]))
    planned = [
        bucket
        for share, members, buckets in groups
        for bucket in _plan_group(index, (share, members, buckets), (stage, data), patches)
    ]
    return StagePlan(
        buckets=tuple(planned),
        dataset_weights=left_out.dataset_weights,
        num_samples=left_out.num_samples,
        num_too_short=left_out.num_too_short,
        num_without_caption=left_out.num_without_caption,
        num_at_smaller_stride=left_out.num_at_smaller_stride,
        playback=Playback(
            fps=float(np.median(index.numbers("fps")[rows])),
            height_px=int(np.median(index.numbers("height_px")[rows])),
            width_px=int(np.median(index.numbers("width_px")[rows])),
        ),
    )


def _has_latents_of(index: SampleIndex, sizes_px: Collection[tuple[int, int]]) -> NDArray[np.bool_]:
    found = np.zeros(len(index), np.bool_)
    for height_px, width_px in sizes_px:
        is_high = index.numbers("latent_height") == height_px // LATENT_DOWNSAMPLING
        found |= is_high & (index.numbers("latent_width") == width_px // LATENT_DOWNSAMPLING)
    return found


def is_held_out(index: SampleIndex, share: float) -> NDArray[np.bool_]:
    """Which samples are kept for validation: this share of all ids, whatever the data set they are in."""
    below = share * 2**63
    return np.array([derive_seed("held out", name) < below for name in index.clip_ids()], np.bool_)


def _usable(
    index: SampleIndex, stage: StageConfig, mine: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], int]:
    """Those of `mine` in the subset that have a caption, and how many have none."""
    chosen = mine
    if stage.subset is not None:
        chosen = mine & index.in_subset(stage.subset)
        if not chosen.any():
            raise DataError(
                f"no clip is in the subset {stage.subset!r}; the shards know "
                f"{', '.join(index.subsets()) or 'no subset'}"
            )
    captioned = chosen & index.has_caption()
    return captioned, int(chosen.sum() - captioned.sum())


def _dataset_weights(index: SampleIndex, data: DataConfig) -> tuple[float, ...] | None:
    if not data.dataset_weights:
        return None
    if len(data.dataset_weights) != len(index.datasets):
        raise DataError(
            f"data.dataset_weights has {len(data.dataset_weights)} numbers for {len(index.datasets)} data "
            "sets; give one for each --dataset, in their order, or none"
        )
    return data.dataset_weights


def _plan_group(
    index: SampleIndex,
    group: tuple[float, Rows, Sequence[Bucket]],
    config: tuple[StageConfig, DataConfig],
    patches: tuple[int, int],
) -> list[PlannedBucket]:
    """The buckets among which these samples are divided; `group` is (share of what is drawn, rows, buckets)."""
    share, rows, buckets = group
    stage, data = config
    chosen = choose_buckets(index, rows, buckets)
    dataset = index.numbers("dataset")[rows]
    counts = np.bincount(dataset, minlength=len(index.datasets)).tolist()
    weights = _dataset_weights(index, data) or counts
    present = sum(weight for weight, count in zip(weights, counts, strict=True) if count)
    planned: list[PlannedBucket] = []
    for number, bucket in enumerate(buckets):
        of_dataset = [rows[(chosen == number) & (dataset == d)] for d in range(len(weights))]
        drawn = sum(
            share * weight / present * len(mine) / count
            for weight, mine, count in zip(weights, of_dataset, counts, strict=True)
            if count
        )
        tokens = bucket.num_tokens(*patches)
        batch_size = batch_size_of(stage, tokens)
        found = PlannedBucket(bucket, tuple(of_dataset), batch_size, drawn, tokens)
        if found.num_samples < batch_size:
            raise DataError(
                f"bucket {bucket} has {found.num_samples} samples, one batch takes {batch_size}; lower "
                "batch_size, or take this size out of data.more_sizes_px or this number of frames out of "
                "the stage"
            )
        planned.append(found)
    return planned


def batch_size_of(stage: StageConfig, tokens_per_sample: int) -> int:
    if stage.tokens_per_batch is None:
        return stage.batch_size
    unit = stage.batch_multiple
    return max(unit, stage.tokens_per_batch // tokens_per_sample // unit * unit)


def choose_buckets(index: SampleIndex, rows: Rows, buckets: Sequence[Bucket]) -> Rows:
    """For each row the number of its bucket: the most frames, the nearest aspect ratio, the largest size.

    Raises:
        DataError: latents have none of the sizes.
    """
    num_frames = index.numbers("num_frames")[rows]
    height_px = index.numbers("height_px")[rows].astype(np.float64)
    width_px = index.numbers("width_px")[rows].astype(np.float64)
    latent_height = index.numbers("latent_height")[rows]
    latent_width = index.numbers("latent_width")[rows]
    best = np.full(len(rows), -1, np.int64)
    best_rank = np.full((len(rows), 4), -np.inf)
    for number, bucket in enumerate(buckets):
        log_ratio = np.log(bucket.width_px / bucket.height_px) - np.log(width_px / height_px)
        enlarges = (bucket.height_px > height_px) & (bucket.width_px > width_px)
        area_px = bucket.height_px * bucket.width_px
        rank = np.stack(
            [
                np.full(len(rows), float(bucket.num_frames)),
                # To a hundredth, so that sizes of the same shape, up to rounding, are told by their area.
                -np.abs(log_ratio).round(2),
                -enlarges.astype(np.float64),
                np.where(enlarges, -area_px, area_px),
            ],
            axis=1,
        )
        size = (bucket.height_px // LATENT_DOWNSAMPLING, bucket.width_px // LATENT_DOWNSAMPLING)
        same_latents = (latent_height == size[0]) & (latent_width == size[1])
        possible = (num_frames >= bucket.num_frames) & ((latent_height == 0) | same_latents)
        better = possible & _lexicographically_greater(rank, best_rank)
        best[better], best_rank[better] = number, rank[better]
    if (lost := best < 0).any():
        found = (int(latent_height[lost][0]), int(latent_width[lost][0]))
        raise DataError(
            f"{int(lost.sum())} samples hold latents of other sizes than this run trains at, such as "
            f"{found[0] * LATENT_DOWNSAMPLING}x{found[1] * LATENT_DOWNSAMPLING} px; the run has "
            f"{', '.join(map(str, buckets))}: encode them again, or train at their size"
        )
    return best


def _lexicographically_greater(
    one: NDArray[np.float64], other: NDArray[np.float64]
) -> NDArray[np.bool_]:
    greater = np.zeros(len(one), np.bool_)
    equal = np.ones(len(one), np.bool_)
    for column in range(one.shape[1]):
        greater |= equal & (one[:, column] > other[:, column])
        equal &= one[:, column] == other[:, column]
    return greater


def _strides(clip_frames: Rows, num_frames: int, sampling_stride: int) -> Rows:
    """`fitting_stride` of many clips."""
    if num_frames == 1:
        return np.ones_like(clip_frames)
    return np.clip((clip_frames - 1) // (num_frames - 1), 1, sampling_stride)


def fitting_stride(clip_frames: int, num_frames: int, sampling_stride: int) -> int:
    """The largest stride up to `sampling_stride` at which `num_frames` fit into the clip; 1 for images."""
    if num_frames == 1:
        return 1
    return max(1, min(sampling_stride, (clip_frames - 1) // (num_frames - 1)))
