import pytest

from data_engine.config import FilterConfig
from data_engine.filters import (
    ALL_THRESHOLDS,
    CAPTION_THRESHOLDS,
    CHEAP_THRESHOLDS,
    judge,
    resolve_percentiles,
)
from data_engine.schema import ClipStatus, Crop, Rejection
from tests.factories import clip_record, scores

GOOD = scores(motion=0.1, luminance=0.5, sharpness=100.0, brisque=20.0, text_area=0.0)


def decide(**changes: object) -> Rejection | None:
    return judge(
        clip_record(**{"scores": GOOD, **changes}), FilterConfig(), ALL_THRESHOLDS
    ).rejected_by


def test_a_good_clip_is_kept() -> None:
    assert decide() is None


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("motion", 0.0001, Rejection.TOO_STATIC),
        ("motion", 3.0, Rejection.TOO_SHAKY),
        ("luminance", 0.01, Rejection.TOO_DARK),
        ("luminance", 0.99, Rejection.TOO_BRIGHT),
        ("sharpness", 1.0, Rejection.TOO_BLURRY),
        ("brisque", 99.0, Rejection.LOW_QUALITY),
        ("text_area", 0.5, Rejection.TOO_MUCH_TEXT),
    ],
)
def test_each_limit_has_its_reason(name: str, value: float, reason: Rejection) -> None:
    assert decide(scores=GOOD | scores(**{name: value})) is reason


def test_a_value_at_the_limit_is_kept() -> None:
    limit = FilterConfig().min_motion
    assert isinstance(limit, float)
    assert decide(scores=GOOD | scores(motion=limit)) is None


def test_an_unscored_clip_is_not_called_static() -> None:
    assert decide(scores={}) is Rejection.NOT_SCORED


def test_size_comes_before_scores_that_a_short_clip_cannot_have() -> None:
    assert decide(scores={}, end_s=0.5) is Rejection.TOO_SHORT
    assert decide(scores={}, height_px=64) is Rejection.TOO_SMALL


def test_a_threshold_that_is_off_asks_for_no_score() -> None:
    config = FilterConfig(min_motion=None, max_motion=None)
    without_motion = {name: score for name, score in GOOD.items() if name != "motion"}
    assert judge(clip_record(scores=without_motion), config, CHEAP_THRESHOLDS).rejected_by is None


@pytest.mark.parametrize(
    ("limit", "score", "value", "reason"),
    [
        ("min_foreground_motion", "foreground_motion", 0.001, Rejection.TOO_STATIC),
        ("max_camera_motion", "camera_motion", 0.9, Rejection.TOO_SHAKY),
        ("max_black_share", "black_share", 0.9, Rejection.TOO_DARK),
        ("max_flicker", "flicker", 0.9, Rejection.INCONSISTENT),
        ("max_nsfw", "nsfw", 0.9, Rejection.UNSAFE),
        ("max_watermark", "watermark", 0.9, Rejection.WATERMARKED),
        ("min_learned_quality", "learned_quality", 0.1, Rejection.LOW_QUALITY),
    ],
)
def test_an_optional_limit_has_its_reason(
    limit: str, score: str, value: float, reason: Rejection
) -> None:
    assert decide(scores=GOOD | scores(**{score: value})) is None
    config = FilterConfig.model_validate({limit: 0.5})
    for measured, expected in ((value, reason), (0.5, None)):
        record = clip_record(scores=GOOD | scores(**{score: measured}))
        assert judge(record, config, ALL_THRESHOLDS).rejected_by is expected
    unscored = clip_record(scores=GOOD)
    assert judge(unscored, config, ALL_THRESHOLDS).rejected_by is Rejection.NOT_SCORED


def test_similarity_thresholds_belong_to_their_backend() -> None:
    config = FilterConfig(min_clip_similarity=0.2)
    with_other_backend = clip_record(scores=scores(conse_similarity=0.9))
    decided = judge(with_other_backend, config, CAPTION_THRESHOLDS)
    assert decided.rejected_by is Rejection.NOT_SCORED


def test_a_failed_clip_stays_failed() -> None:
    failed = clip_record(error="gone", scores={})
    assert judge(failed, FilterConfig(), ALL_THRESHOLDS).status is ClipStatus.FAILED


def test_judging_again_with_wider_limits_takes_a_clip_back() -> None:
    still = clip_record(scores=GOOD | scores(motion=0.0001))
    rejected = judge(still, FilterConfig(), CHEAP_THRESHOLDS)
    wide = FilterConfig(min_motion=0.0)
    assert rejected.status is ClipStatus.REJECTED
    assert judge(rejected, wide, CHEAP_THRESHOLDS).status is ClipStatus.KEPT


def test_a_percentile_is_taken_over_the_clips_that_have_the_score() -> None:
    clips = [clip_record(start_s=float(i), scores=scores(motion=i / 10)) for i in range(11)]
    clips.append(clip_record(start_s=99.0, scores={}))
    filters = resolve_percentiles(FilterConfig(min_motion="p20"), clips, ALL_THRESHOLDS)
    assert filters.min_motion == pytest.approx(0.2)
    kept = [c for c in clips if judge(c, filters, CHEAP_THRESHOLDS[:1]).rejected_by is None]
    assert len(kept) == 9


def test_a_percentile_of_a_score_that_nobody_has_is_off() -> None:
    filters = resolve_percentiles(
        FilterConfig(min_aesthetic="p50"), [clip_record()], ALL_THRESHOLDS
    )
    assert filters.min_aesthetic is None


@pytest.mark.parametrize("limit", ["20%", "p101", "p", "high"])
def test_a_limit_is_a_number_or_a_percentile(limit: str) -> None:
    with pytest.raises(ValueError, match="expected a number, a percentile such as p20, or null"):
        FilterConfig(min_motion=limit)


def test_shape_is_width_over_height() -> None:
    portrait_only = FilterConfig(max_aspect=1.0)
    wide = clip_record(scores=GOOD, height_px=360, width_px=640)
    tall = clip_record(scores=GOOD, height_px=640, width_px=360)
    assert judge(wide, portrait_only, ALL_THRESHOLDS).rejected_by is Rejection.WRONG_SHAPE
    assert judge(tall, portrait_only, ALL_THRESHOLDS).rejected_by is None


def test_bars_count_neither_for_the_size_nor_for_the_shape() -> None:
    upright = Crop(left_px=220, top_px=0, width_px=200, height_px=360)
    low = Crop(left_px=0, top_px=130, width_px=640, height_px=100)
    landscape_only = FilterConfig(min_aspect=1.0)
    pillarboxed = clip_record(scores=GOOD, crop=upright)
    assert judge(pillarboxed, landscape_only, ALL_THRESHOLDS).rejected_by is Rejection.WRONG_SHAPE
    assert decide(crop=low) is Rejection.TOO_SMALL
    assert decide() is None
