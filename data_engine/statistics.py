"""What is in a data set, as numbers for its report and its data card."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_engine.config import FilterConfig
from data_engine.describing import Description
from data_engine.filters import ALL_THRESHOLDS, Threshold, measured, resolve_percentiles
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
    """Percentiles of a number over the kept clips, and its limits in words."""

    name: str
    p5: float
    median: float
    p95: float
    limits: str = ""


Panel = tuple[list[float], list[str], list[float]]
"""A histogram: values, limits in words, and the limits as numbers. For `plots.histograms`."""

LENGTH_EDGES = (10, 20, 40, 80, 160)
"""In words: captions are counted between these."""


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
    """DSG-Video over all captions of one source that one backend judged, 0 to 1: a row of table 8 of the paper."""

    source: str
    """A captioner, or `original`."""
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
    found: dict[str, list[AtLimit]] = {}
    in_force = [pair for pairs in _limits(filters, clips).values() for pair in pairs]
    for threshold, limit in in_force:
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
            name = f"{threshold.score} {_in_words(threshold, limit)}"
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


def hallucination(
    clips: Sequence[ClipRecord], descriptions: Iterable[Description]
) -> list[Hallucination]:
    """The figures of each source of captions: sums over its clips first, then the ratios, as the paper does."""
    ids = {clip.clip_id for clip in clips}
    counts: dict[tuple[str, str], list[DsgCounts]] = defaultdict(list)
    for description in descriptions:
        for judged in description.judged if description.clip_id in ids else ():
            found = dsg_counts(judged.scores)
            if found is not None:
                backend = judged.scores["dsg_video_i"].backend
                counts[judged.caption.source, backend].append(found)
    rows: list[Hallucination] = []
    for (source, backend), judged in sorted(counts.items()):
        figures = dsg_figures(judged)
        if figures is not None:
            num_objects = sum(c.num_objects for c in judged)
            row = (figures.dsg_video_i, figures.dsg_video_s)
            rows.append(Hallucination(source, backend, len(judged), num_objects, *row))
    return rows


def score_panels(filters: FilterConfig, clips: Sequence[ClipRecord]) -> dict[str, Panel]:
    """Of each score and fact that some clip has, the limits that are in force with it."""
    limits = _limits(filters, clips)
    names = dict.fromkeys(threshold.score for threshold in ALL_THRESHOLDS)
    found = {n: [v for clip in clips if (v := measured(clip, n)) is not None] for n in names}
    return {
        name: (
            values,
            [_in_words(threshold, limit) for threshold, limit in limits.get(name, [])],
            [limit for _, limit in limits.get(name, [])],
        )
        for name, values in found.items()
        if values
    }


def caption_panels(clips: Sequence[ClipRecord]) -> dict[str, Panel]:
    """The words of the captions of each source, over the kept clips."""
    return {
        f"words, {source}": ([float(count) for count in counts], [], [])
        for source, counts in _words_by_source(clips).items()
    }


def caption_lengths(clips: Sequence[ClipRecord]) -> dict[str, list[int]]:
    """How many captions of each source, over the kept clips, lie between `LENGTH_EDGES`, below and above included."""
    edges = (0, *(edge + 1 for edge in LENGTH_EDGES), np.inf)
    return {
        source: np.histogram(counts, edges)[0].tolist()
        for source, counts in _words_by_source(clips).items()
    }


def _words_by_source(clips: Sequence[ClipRecord]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for clip in clips:
        for caption in clip.captions if clip.status is ClipStatus.KEPT else ():
            found[caption.source].append(len(caption.text.split()))
    return dict(sorted(found.items()))


def spreads(filters: FilterConfig, clips: Sequence[ClipRecord]) -> list[Spread]:
    """Every fact and score, and the words of the first caption, over the kept clips."""
    kept = [clip for clip in clips if clip.status is ClipStatus.KEPT]
    # Percentiles are over all clips, as for the filters.
    numbers = resolve_percentiles(filters, clips, ALL_THRESHOLDS)
    rows = [
        Spread(name, *_percentiles(values), limits=", ".join(limits))
        for name, (values, limits, _) in score_panels(numbers, kept).items()
    ]
    words = [len(clip.captions[0].text.split()) for clip in kept if clip.captions]
    return [*rows, Spread("words in the first caption", *_percentiles(words))] if words else rows


def _limits(
    filters: FilterConfig, clips: Sequence[ClipRecord]
) -> dict[str, list[tuple[Threshold, float]]]:
    """The limits in force on each score, as numbers."""
    filters = resolve_percentiles(filters, clips, ALL_THRESHOLDS)
    found: dict[str, list[tuple[Threshold, float]]] = defaultdict(list)
    for threshold in ALL_THRESHOLDS:
        limit = threshold.limit(filters)
        if isinstance(limit, int | float):
            found[threshold.score].append((threshold, limit))
    return found


def _in_words(threshold: Threshold, limit: float) -> str:
    return f"{'>=' if threshold.is_minimum else '<='} {limit:.3g}"


def counted(values: Sequence[str]) -> Mapping[str, int]:
    """How often each value occurs, the most frequent first."""
    return dict(sorted(Counter(values).items(), key=lambda found: (-found[1], found[0])))


def _percentiles(numbers: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = np.percentile(numbers, (5, 50, 95))
    return float(low), float(middle), float(high)
