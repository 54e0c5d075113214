"""Thresholds over scores: a decision is `None` (kept so far) or the first reason that applies.

Scores are computed once; a decision is a pure function of them and costs nothing to take again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from data_engine.config import DataEngineConfig, FilterConfig
from data_engine.schema import ClipRecord, Rejection


@dataclass(frozen=True, slots=True)
class Threshold:
    """One limit on one score. `is_minimum` says on which side of it clips are kept."""

    score: str
    limit: Callable[[FilterConfig], float | None]
    is_minimum: bool
    rejection: Rejection

    def is_violated(self, value: float, limit: float) -> bool:
        return value < limit if self.is_minimum else value > limit


CHEAP_THRESHOLDS = (
    Threshold("motion", lambda f: f.min_motion, True, Rejection.TOO_STATIC),
    Threshold("motion", lambda f: f.max_motion, False, Rejection.TOO_SHAKY),
    Threshold("luminance", lambda f: f.min_luminance, True, Rejection.TOO_DARK),
    Threshold("luminance", lambda f: f.max_luminance, False, Rejection.TOO_BRIGHT),
    Threshold("sharpness", lambda f: f.min_sharpness, True, Rejection.TOO_BLURRY),
)
"""Over scores of the decode pass."""

EXPENSIVE_THRESHOLDS = (
    Threshold("brisque", lambda f: f.max_brisque, False, Rejection.LOW_QUALITY),
    Threshold("text_area", lambda f: f.max_text_area, False, Rejection.TOO_MUCH_TEXT),
)
"""Over scores that are computed only for clips which the cheap ones kept."""

CAPTION_THRESHOLDS = (
    Threshold(
        "conse_similarity", lambda f: f.min_conse_similarity, True, Rejection.CAPTION_MISMATCH
    ),
    Threshold("clip_similarity", lambda f: f.min_clip_similarity, True, Rejection.CAPTION_MISMATCH),
)
"""Over scores that need a caption."""

ALL_THRESHOLDS = (*CHEAP_THRESHOLDS, *EXPENSIVE_THRESHOLDS, *CAPTION_THRESHOLDS)


def judge(
    record: ClipRecord, config: DataEngineConfig, thresholds: Iterable[Threshold]
) -> ClipRecord:
    """The record with the first reason that applies, or with none. A failed clip stays failed."""
    if record.error is not None:
        return record
    rejection = _wrong_size(record, config) or _out_of_bounds(record, config.filters, thresholds)
    return replace(record, rejected_by=rejection)


def _wrong_size(record: ClipRecord, config: DataEngineConfig) -> Rejection | None:
    if record.duration_s < config.shots.min_clip_s:
        return Rejection.TOO_SHORT
    min_height_px = config.filters.min_height_px
    if min_height_px is not None and record.height_px < min_height_px:
        return Rejection.TOO_SMALL
    return None


def _out_of_bounds(
    record: ClipRecord, config: FilterConfig, thresholds: Iterable[Threshold]
) -> Rejection | None:
    for threshold in thresholds:
        limit = threshold.limit(config)
        if limit is None:
            continue
        value = record.score(threshold.score)
        if value is None:
            return Rejection.NOT_SCORED
        if threshold.is_violated(value, limit):
            return threshold.rejection
    return None
