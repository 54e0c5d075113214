"""What another choice of thresholds would keep: taken from the scores on disk, without touching a video."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_engine.clip_columns import FAILED, KEPT, REASONS, ClipColumns
from data_engine.config import FilterConfig
from data_engine.errors import TableError
from data_engine.filters import ALL_THRESHOLDS, BEFORE_CAPTIONS, CAPTION_THRESHOLDS
from data_engine.schema import Rejection
from data_engine.tables import DatasetPaths


@dataclass(frozen=True, slots=True)
class Selection:
    """What one choice of thresholds keeps."""

    num_kept: int
    kept_hours: float
    rejected_by: dict[str, int]
    num_unknown: int
    """Clips that pass as far as they were scored, and need more scores before they can be decided."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A clip that one choice keeps and the other does not."""

    clip_id: str
    source_id: str
    start_s: float
    rejected_by: Rejection | None
    """Why the other choice drops it; None if it keeps it, or if it failed."""


@dataclass(frozen=True, slots=True)
class WhatIf:
    now: Selection
    then: Selection
    gained: tuple[Moved, ...]
    lost: tuple[Moved, ...]


def what_if(paths: DatasetPaths, now: FilterConfig, then: FilterConfig) -> WhatIf:
    """Compare two choices over the clips of a data set. Copies stay dropped, whichever choice is asked for.

    Raises:
        TableError: the clips were not scored, or `then` asks for a score that no clip has.
    """
    clips = ClipColumns.read(paths)
    _check_scores(clips, then)
    before, after = decide(clips, now), decide(clips, then)
    return WhatIf(
        now=_select(clips, before),
        then=_select(clips, after),
        gained=_moved(clips, after, (before != KEPT) & (after == KEPT)),
        lost=_moved(clips, after, (before == KEPT) & (after != KEPT)),
    )


def decide(clips: ClipColumns, filters: FilterConfig) -> NDArray[np.int64]:
    """A decision for each clip, as the steps take it, but that one which lacks a score is told from one that fails it."""
    decided = np.where(clips.is_failed, FAILED, KEPT)
    everyone = np.ones(len(clips), dtype=bool)
    decided = clips.judge(decided, filters, BEFORE_CAPTIONS, over=everyone)
    decided = clips.judge(decided, filters, CAPTION_THRESHOLDS, over=decided == KEPT)
    decided = clips.judge_categories(decided, filters)
    copies = (decided == KEPT) & clips.is_copy
    return np.where(copies, REASONS.index(Rejection.DUPLICATE), decided)


def _select(clips: ClipColumns, decided: NDArray[np.int64]) -> Selection:
    is_kept = decided == KEPT
    reasons = Counter(str(REASONS[code]) for code in decided[decided >= 0].tolist())
    num_unknown = reasons.pop(Rejection.NOT_SCORED, 0)
    return Selection(
        num_kept=int(is_kept.sum()),
        kept_hours=float(clips.number("duration_s")[is_kept].sum()) / 3600,
        rejected_by=dict(reasons),
        num_unknown=num_unknown,
    )


def _moved(
    clips: ClipColumns, decided: NDArray[np.int64], chosen: NDArray[np.bool_]
) -> tuple[Moved, ...]:
    rows = np.flatnonzero(chosen)
    return tuple(
        Moved(clip_id, source_id, start_s, REASONS[code] if code >= 0 else None)
        for clip_id, source_id, start_s, code in zip(
            clips.clip_id.take(rows).to_pylist(),
            clips.source_id.take(rows).to_pylist(),
            clips.start_s[rows].tolist(),
            decided[rows].tolist(),
            strict=True,
        )
    )


def _check_scores(clips: ClipColumns, filters: FilterConfig) -> None:
    for threshold in ALL_THRESHOLDS:
        is_asked = threshold.limit(filters) is not None
        if is_asked and np.isnan(clips.number(threshold.score)).all():
            known = sorted(n for n, values in clips.numbers.items() if not np.isnan(values).all())
            raise TableError(
                f"filters.{threshold.field} needs the score {threshold.score!r}, which no clip of this data set "
                f"has; it has {', '.join(known) or 'none'}. Curate again with its scorer"
            )
