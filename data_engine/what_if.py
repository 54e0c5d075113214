"""What another choice of thresholds would keep: taken from the scores on disk, without touching a video."""

from collections import Counter
from dataclasses import dataclass, replace

from data_engine.config import FilterConfig
from data_engine.errors import TableError
from data_engine.filters import (
    BEFORE_CAPTIONS,
    CAPTION_THRESHOLDS,
    judge,
    measured,
    resolve_percentiles,
)
from data_engine.schema import ClipRecord, ClipStatus, Rejection
from data_engine.tables import DatasetPaths, load_clips, read_clips


@dataclass(frozen=True, slots=True)
class Selection:
    """What one choice of thresholds keeps."""

    num_kept: int
    kept_hours: float
    rejected_by: dict[str, int]
    num_unknown: int
    """Clips that pass as far as they were scored, and need more scores before they can be decided."""


@dataclass(frozen=True, slots=True)
class WhatIf:
    now: Selection
    then: Selection
    gained: tuple[ClipRecord, ...]
    lost: tuple[ClipRecord, ...]


def what_if(paths: DatasetPaths, now: FilterConfig, then: FilterConfig) -> WhatIf:
    """Compare two choices over the clips of a data set. Copies stay dropped, whichever choice is asked for.

    Raises:
        TableError: the clips were not scored, or `then` asks for a score that no clip has.
    """
    records = _fully_scored(paths)
    _check_scores(records, then)
    before, after = _decide(records, now), _decide(records, then)
    pairs = list(zip(before, after, strict=True))
    return WhatIf(
        now=_select(before),
        then=_select(after),
        gained=tuple(b for a, b in pairs if not _is_kept(a) and _is_kept(b)),
        lost=tuple(b for a, b in pairs if _is_kept(a) and not _is_kept(b)),
    )


def _fully_scored(paths: DatasetPaths) -> list[ClipRecord]:
    """Every clip with all scores that any step gave it."""
    latest = {record.clip_id: record for record in load_clips(paths)}
    return [
        replace(record, **_later(latest.get(record.clip_id)))
        for record in read_clips(paths.scored_clips)
    ]


def _later(record: ClipRecord | None) -> dict[str, object]:
    if record is None:
        return {}
    return {
        "scores": record.scores,
        "duplicate_of": record.duplicate_of,
        "captions": record.captions,
        "error": record.error,
    }


def _decide(records: list[ClipRecord], filters: FilterConfig) -> list[ClipRecord]:
    """As the steps do, but that a clip which lacks a score is told from one that fails it."""
    filters = resolve_percentiles(filters, records, BEFORE_CAPTIONS)
    decided = [judge(record, filters, BEFORE_CAPTIONS) for record in records]
    passed = [record for record in decided if record.status is ClipStatus.KEPT]
    filters = resolve_percentiles(filters, passed, CAPTION_THRESHOLDS)
    decided = [
        judge(r, filters, CAPTION_THRESHOLDS) if r.status is ClipStatus.KEPT else r for r in decided
    ]
    return [
        replace(record, rejected_by=Rejection.DUPLICATE)
        if record.duplicate_of is not None and record.status is ClipStatus.KEPT
        else record
        for record in decided
    ]


def _select(records: list[ClipRecord]) -> Selection:
    kept = [record for record in records if _is_kept(record)]
    reasons = Counter(str(r.rejected_by) for r in records if r.rejected_by is not None)
    num_unknown = reasons.pop(Rejection.NOT_SCORED, 0)
    return Selection(
        num_kept=len(kept),
        kept_hours=sum(record.duration_s for record in kept) / 3600,
        rejected_by=dict(reasons),
        num_unknown=num_unknown,
    )


def _is_kept(record: ClipRecord) -> bool:
    return record.status is ClipStatus.KEPT


def _check_scores(records: list[ClipRecord], filters: FilterConfig) -> None:
    for threshold in (*BEFORE_CAPTIONS, *CAPTION_THRESHOLDS):
        is_asked = threshold.limit(filters) is not None
        if is_asked and all(measured(record, threshold.score) is None for record in records):
            known = sorted({name for record in records for name in record.scores})
            raise TableError(
                f"filters.{threshold.field} needs the score {threshold.score!r}, which no clip of this data set "
                f"has; it has {', '.join(known) or 'none'}. Curate again with its scorer"
            )
