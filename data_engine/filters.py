"""Thresholds over scores: a decision is `None` (kept so far) or the first reason that applies.

Scores are computed once; a decision is a pure function of them and costs nothing to take again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_engine.config import FilterConfig
from data_engine.schema import ClipRecord, ClipStatus, Rejection


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


def _of(score: str, below: Rejection, above: Rejection) -> tuple[Threshold, Threshold]:
    return Threshold(f"min_{score}", score, below), Threshold(f"max_{score}", score, above)


_ODD = Rejection.OUT_OF_RANGE
"""For the side of a score that seldom speaks against a clip."""

SIZE_THRESHOLDS = (
    *_of("duration_s", Rejection.TOO_SHORT, Rejection.TOO_LONG),
    *_of("num_frames", Rejection.TOO_SHORT, Rejection.TOO_LONG),
    *_of("height_px", Rejection.TOO_SMALL, Rejection.TOO_LARGE),
    *_of("width_px", Rejection.TOO_SMALL, Rejection.TOO_LARGE),
    *_of("aspect", Rejection.WRONG_SHAPE, Rejection.WRONG_SHAPE),
    *_of("fps", Rejection.WRONG_RATE, Rejection.WRONG_RATE),
)
"""Over what every clip knows of itself."""

CHEAP_THRESHOLDS = (
    *_of("hdr", Rejection.WRONG_DYNAMIC_RANGE, Rejection.WRONG_DYNAMIC_RANGE),
    *_of("motion", Rejection.TOO_STATIC, Rejection.TOO_SHAKY),
    *_of("motion_p10", Rejection.TOO_STATIC, Rejection.TOO_SHAKY),
    *_of("motion_p90", Rejection.TOO_STATIC, Rejection.TOO_SHAKY),
    *_of("foreground_motion", Rejection.TOO_STATIC, Rejection.TOO_SHAKY),
    *_of("camera_motion", Rejection.TOO_STATIC, Rejection.TOO_SHAKY),
    *_of("camera_right", Rejection.WRONG_CAMERA, Rejection.WRONG_CAMERA),
    *_of("camera_down", Rejection.WRONG_CAMERA, Rejection.WRONG_CAMERA),
    *_of("camera_outwards", Rejection.WRONG_CAMERA, Rejection.WRONG_CAMERA),
    *_of("luminance", Rejection.TOO_DARK, Rejection.TOO_BRIGHT),
    *_of("black_share", Rejection.TOO_BRIGHT, Rejection.TOO_DARK),
    *_of("sharpness", Rejection.TOO_BLURRY, Rejection.TOO_NOISY),
    *_of("flicker", _ODD, Rejection.INCONSISTENT),
)
"""Over scores of the decode pass."""

FRAME_THRESHOLDS = (
    *_of("brisque", _ODD, Rejection.LOW_QUALITY),
    *_of("technical_quality", Rejection.LOW_QUALITY, _ODD),
    *_of("aesthetic", Rejection.LOW_QUALITY, _ODD),
    *_of("learned_quality", Rejection.LOW_QUALITY, _ODD),
    *_of("text_area", Rejection.TOO_LITTLE_TEXT, Rejection.TOO_MUCH_TEXT),
    *_of("text_area_edges", Rejection.TOO_LITTLE_TEXT, Rejection.TEXT_AT_EDGES),
    *_of("text_area_corners", Rejection.TOO_LITTLE_TEXT, Rejection.TEXT_IN_CORNERS),
    *_of("watermark", _ODD, Rejection.WATERMARKED),
    *_of("nsfw", _ODD, Rejection.UNSAFE),
    *_of("consistency", Rejection.INCONSISTENT, Rejection.TOO_STATIC),
)
"""Over scores of kept frames, which are computed only for clips that the cheap ones kept."""

CAPTION_THRESHOLDS = (
    *_of("conse_similarity", Rejection.CAPTION_MISMATCH, _ODD),
    *_of("clip_similarity", Rejection.CAPTION_MISMATCH, _ODD),
    *_of("dsg_video_i", _ODD, Rejection.HALLUCINATED),
    *_of("dsg_objects", Rejection.CAPTION_MISMATCH, _ODD),
    *_of("dsg_hallucinated_objects", _ODD, Rejection.HALLUCINATED),
    *_of("dsg_sentences", _ODD, _ODD),
    *_of("dsg_hallucinated_sentences", _ODD, Rejection.HALLUCINATED),
)
"""Over scores that need a caption."""

BEFORE_FRAMES = (*SIZE_THRESHOLDS, *CHEAP_THRESHOLDS)
BEFORE_CAPTIONS = (*BEFORE_FRAMES, *FRAME_THRESHOLDS)
ALL_THRESHOLDS = (*BEFORE_CAPTIONS, *CAPTION_THRESHOLDS)


def measured(record: ClipRecord, score: str) -> float | None:
    """A score of a clip, or one of the facts that every clip knows of itself."""
    height_px, width_px = record.picture_size_px
    facts = {
        "duration_s": record.duration_s,
        "num_frames": float(record.num_frames),
        "height_px": float(height_px),
        "width_px": float(width_px),
        "aspect": width_px / height_px,
        "fps": record.fps,
    }
    return facts[score] if score in facts else record.score(score)


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


def category_rejection(record: ClipRecord, filters: FilterConfig) -> Rejection | None:
    """What the category of a clip has against it; a clip that fits none is in none that was chosen."""
    name = None if record.category is None else record.category.name
    if filters.categories is not None and name not in filters.categories:
        return Rejection.WRONG_CATEGORY
    return Rejection.WRONG_CATEGORY if name in filters.no_categories else None


def passes(record: ClipRecord, filters: FilterConfig) -> bool:
    """Whether a captioned clip keeps to every limit."""
    limits_kept = rejection(record, filters, ALL_THRESHOLDS) is None
    return limits_kept and category_rejection(record, filters) is None


def judge(record: ClipRecord, filters: FilterConfig, thresholds: Iterable[Threshold]) -> ClipRecord:
    """The record with the first reason that applies, or with none. A failed clip stays failed."""
    if record.error is not None:
        return record
    return replace(record, rejected_by=rejection(record, filters, thresholds))


def judge_captioned(record: ClipRecord, filters: FilterConfig) -> ClipRecord:
    """The record with the first reason that applies of those that need a caption."""
    judged = judge(record, filters, CAPTION_THRESHOLDS)
    if judged.status is not ClipStatus.KEPT:
        return judged
    return replace(judged, rejected_by=category_rejection(record, filters))


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
