"""Thresholds over scores: a decision is `None` (kept so far) or the first reason that applies.

Scores are computed once; a decision is a pure function of them and costs nothing to take again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_engine.config import FilterConfig
from data_engine.schema import ClipRecord, Rejection


@dataclass(frozen=True, slots=True)
class Threshold:
    """One limit on one score: `field` of `FilterConfig`, whose prefix says on which side clips are kept."""

    field: str
    score: str
    rejection: Rejection

    @property
    def is_minimum(self) -> bool:
        return self.field.startswith("min_")

    def limit(self, filters: FilterConfig) -> float | str | None:
        return getattr(filters, self.field)

    def is_violated(self, value: float, limit: float) -> bool:
        return value < limit if self.is_minimum else value > limit


SIZE_THRESHOLDS = (
    Threshold("min_duration_s", "duration_s", Rejection.TOO_SHORT),
    Threshold("min_height_px", "height_px", Rejection.TOO_SMALL),
    Threshold("min_aspect", "aspect", Rejection.WRONG_SHAPE),
    Threshold("max_aspect", "aspect", Rejection.WRONG_SHAPE),
)
"""Over what every clip knows of itself."""

CHEAP_THRESHOLDS = (
    Threshold("min_motion", "motion", Rejection.TOO_STATIC),
    Threshold("max_motion", "motion", Rejection.TOO_SHAKY),
    Threshold("min_foreground_motion", "foreground_motion", Rejection.TOO_STATIC),
    Threshold("max_camera_motion", "camera_motion", Rejection.TOO_SHAKY),
    Threshold("min_luminance", "luminance", Rejection.TOO_DARK),
    Threshold("max_luminance", "luminance", Rejection.TOO_BRIGHT),
    Threshold("max_black_share", "black_share", Rejection.TOO_DARK),
    Threshold("min_sharpness", "sharpness", Rejection.TOO_BLURRY),
    Threshold("max_flicker", "flicker", Rejection.INCONSISTENT),
)
"""Over scores of the decode pass."""

FRAME_THRESHOLDS = (
    Threshold("max_brisque", "brisque", Rejection.LOW_QUALITY),
    Threshold("min_technical_quality", "technical_quality", Rejection.LOW_QUALITY),
    Threshold("min_aesthetic", "aesthetic", Rejection.LOW_QUALITY),
    Threshold("min_learned_quality", "learned_quality", Rejection.LOW_QUALITY),
    Threshold("max_text_area", "text_area", Rejection.TOO_MUCH_TEXT),
    Threshold("max_watermark", "watermark", Rejection.WATERMARKED),
    Threshold("max_nsfw", "nsfw", Rejection.UNSAFE),
    Threshold("min_consistency", "consistency", Rejection.INCONSISTENT),
)
"""Over scores of kept frames, which are computed only for clips that the cheap ones kept."""

CAPTION_THRESHOLDS = (
    Threshold("min_conse_similarity", "conse_similarity", Rejection.CAPTION_MISMATCH),
    Threshold("min_clip_similarity", "clip_similarity", Rejection.CAPTION_MISMATCH),
    Threshold("max_dsg_video_i", "dsg_video_i", Rejection.HALLUCINATED),
)
"""Over scores that need a caption."""

BEFORE_FRAMES = (*SIZE_THRESHOLDS, *CHEAP_THRESHOLDS)
BEFORE_CAPTIONS = (*BEFORE_FRAMES, *FRAME_THRESHOLDS)
ALL_THRESHOLDS = (*BEFORE_CAPTIONS, *CAPTION_THRESHOLDS)


def measured(record: ClipRecord, score: str) -> float | None:
    """A score of a clip, or one of the facts that every clip knows of itself."""
    if score == "duration_s":
        return record.duration_s
    height_px, width_px = record.picture_size_px
    if score == "height_px":
        return float(height_px)
    if score == "aspect":
        return width_px / height_px
    return record.score(score)


def rejection(
    record: ClipRecord, filters: FilterConfig, thresholds: Iterable[Threshold]
) -> Rejection | None:
    """The first reason that applies; limits must be numbers (`resolve_percentiles`)."""
    for threshold in thresholds:
        limit = threshold.limit(filters)
        if limit is None:
            continue
        assert not isinstance(limit, str), f"{threshold.field} is still a percentile: {limit}"
        value = measured(record, threshold.score)
        if value is None:
            return Rejection.NOT_SCORED
        if threshold.is_violated(value, limit):
            return threshold.rejection
    return None


def judge(record: ClipRecord, filters: FilterConfig, thresholds: Iterable[Threshold]) -> ClipRecord:
    """The record with the first reason that applies, or with none. A failed clip stays failed."""
    if record.error is not None:
        return record
    return replace(record, rejected_by=rejection(record, filters, thresholds))


def resolve_percentiles(
    filters: FilterConfig, records: Sequence[ClipRecord], thresholds: Iterable[Threshold]
) -> FilterConfig:
    """The filters with each percentile (`p20`) replaced by that percentile of the score over these clips.

    A percentile of a score that no clip has is turned off.
    """
    numbers: dict[str, float | None] = {}
    for threshold in thresholds:
        limit = threshold.limit(filters)
        if isinstance(limit, str):
            values = [v for r in records if (v := measured(r, threshold.score)) is not None]
            percent = float(limit.removeprefix("p"))
            numbers[threshold.field] = float(np.percentile(values, percent)) if values else None
    return filters.model_copy(update=numbers)
