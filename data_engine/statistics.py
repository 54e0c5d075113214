"""What is in a data set, as numbers for its report and its data card."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_engine.config import FilterConfig
from data_engine.describing import Description
from data_engine.filters import ALL_THRESHOLDS, measured, resolve_percentiles
from data_engine.hallucination import DsgCounts, dsg_counts, dsg_figures
from data_engine.schema import ClipRecord, ClipStatus


@dataclass(frozen=True, slots=True)
class SourceCounts:
    """What became of the clips of one source."""

    uri: str
    num_cut: int
    num_kept: int
    kept_s: float


@dataclass(frozen=True, slots=True)
class AtLimit:
    """A clip whose value is close to a limit; `is_inside` says that it keeps to it."""

    clip: ClipRecord
    value: float
    is_inside: bool


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of a number over the kept clips."""

    name: str
    p5: float
    median: float
    p95: float


@dataclass(frozen=True, slots=True)
class CaptionerCounts:
    """What became of the clips that one captioner, or `dsg_video`, was shown."""

    name: str
    num_written: int
    """Clips that have a caption of it."""
    num_refused: dict[str, int]
    """Clips for which it gave nothing, by reason."""


@dataclass(frozen=True, slots=True)
class Hallucination:
    """DSG-Video over all clips whose first caption one backend judged, 0 to 1."""

    backend: str
    num_clips: int
    num_objects: int
    dsg_video_i: float
    dsg_video_s: float


def by_source(clips: Sequence[ClipRecord]) -> list[SourceCounts]:
    """One row a source, the one with most clips first."""
    groups: dict[str, list[ClipRecord]] = defaultdict(list)
    for clip in clips:
        groups[clip.source_uri].append(clip)
    rows = [
        SourceCounts(
            uri=uri,
            num_cut=len(group),
            num_kept=sum(clip.status is ClipStatus.KEPT for clip in group),
            kept_s=sum(clip.duration_s for clip in group if clip.status is ClipStatus.KEPT),
        )
        for uri, group in groups.items()
    ]
    return sorted(rows, key=lambda row: (-row.num_cut, row.uri))


def at_limits(
    filters: FilterConfig, clips: Sequence[ClipRecord], count: int
) -> dict[str, list[AtLimit]]:
    """For each limit in force, the `count` clips nearest to it on either side: those to look at when setting it."""
    filters = resolve_percentiles(filters, clips, ALL_THRESHOLDS)
    found: dict[str, list[AtLimit]] = {}
    for threshold in ALL_THRESHOLDS:
        limit = threshold.limit(filters)
        if not isinstance(limit, int | float):
            continue
        near = sorted(
            (abs(value - limit), clip.clip_id, AtLimit(clip, value, is_inside))
            for clip in clips
            if (value := measured(clip, threshold.score)) is not None
            for is_inside in (not threshold.is_violated(value, limit),)
        )
        outside = [at for *_, at in near if not at.is_inside][:count]
        inside = [at for *_, at in near if at.is_inside][:count]
        # A limit that nobody is beyond needs no picture.
        if outside:
            name = f"{threshold.score} {'>=' if threshold.is_minimum else '<='} {limit:.3g}"
            found[name] = sorted([*outside, *inside], key=lambda at: at.value)
    return found


def by_captioner(
    clips: Sequence[ClipRecord], descriptions: Iterable[Description]
) -> list[CaptionerCounts]:
    """One row for each source of captions, and for each step that gave nothing for some clip."""
    ids = {clip.clip_id for clip in clips}
    refused: dict[str, Counter[str]] = defaultdict(Counter)
    for description in descriptions:
        for finding in description.findings if description.clip_id in ids else ():
            refused[finding.step][finding.reason] += 1
    written = Counter(caption.source for clip in clips for caption in clip.captions)
    return [
        CaptionerCounts(name, written[name], dict(refused[name]))
        for name in sorted({*written, *refused})
    ]


def hallucination(clips: Sequence[ClipRecord]) -> list[Hallucination]:
    """The figures of each backend: sums over its clips first, then the ratios, as the paper does."""
    counts: dict[str, list[DsgCounts]] = defaultdict(list)
    for clip in clips:
        found = dsg_counts(clip)
        if found is not None:
            counts[clip.scores["dsg_video_i"].backend].append(found)
    rows: list[Hallucination] = []
    for backend, judged in sorted(counts.items()):
        figures = dsg_figures(judged)
        if figures is not None:
            num_objects = sum(c.num_objects for c in judged)
            row = (figures.dsg_video_i, figures.dsg_video_s)
            rows.append(Hallucination(backend, len(judged), num_objects, *row))
    return rows


def spreads(clips: Sequence[ClipRecord]) -> list[Spread]:
    """Length, size, rate, words of the first caption, and every score, over the kept clips."""
    kept = [clip for clip in clips if clip.status is ClipStatus.KEPT]
    values: dict[str, list[float]] = {
        "duration (s)": [clip.duration_s for clip in kept],
        "frames": [float(clip.num_frames) for clip in kept],
        "height (px)": [float(clip.picture_size_px[0]) for clip in kept],
        "width (px)": [float(clip.picture_size_px[1]) for clip in kept],
        "frames a second": [clip.fps for clip in kept],
        "words in the caption": [
            float(len(clip.captions[0].text.split())) for clip in kept if clip.captions
        ],
    }
    for clip in kept:
        for name, score in clip.scores.items():
            values.setdefault(name, []).append(score.value)
    return [Spread(name, *_percentiles(numbers)) for name, numbers in values.items() if numbers]


def counted(values: Sequence[str]) -> Mapping[str, int]:
    """How often each value occurs, the most frequent first."""
    return dict(sorted(Counter(values).items(), key=lambda found: (-found[1], found[0])))


def _percentiles(numbers: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = np.percentile(numbers, (5, 50, 95))
    return float(low), float(middle), float(high)
