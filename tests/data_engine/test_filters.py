import pytest

from data_engine.config import DataEngineConfig, FilterConfig, ScoreConfig
from data_engine.filter_config import DSG_SCORES, FRAME_SCORER_OF, SIMILARITY_OF
from data_engine.filters import (
    ALL_THRESHOLDS,
    CAPTION_THRESHOLDS,
    CHEAP_THRESHOLDS,
    FRAME_THRESHOLDS,
    judge,
    judge_captioned,
    resolve_percentiles,
)
from data_engine.hallucination import DsgCounts, dsg_scores
from data_engine.schema import Category, ClipStatus, Crop, Rejection
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
        ("max_text_area_edges", "text_area_edges", 0.9, Rejection.TEXT_AT_EDGES),
        ("max_text_area_corners", "text_area_corners", 0.9, Rejection.TEXT_IN_CORNERS),
        ("min_motion_p10", "motion_p10", 0.1, Rejection.TOO_STATIC),
        ("max_motion_p90", "motion_p90", 0.9, Rejection.TOO_SHAKY),
        ("max_hdr", "hdr", 1.0, Rejection.WRONG_DYNAMIC_RANGE),
        ("min_nsfw", "nsfw", 0.1, Rejection.OUT_OF_RANGE),
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
    motion = [threshold for threshold in CHEAP_THRESHOLDS if threshold.score == "motion"]
    kept = [c for c in clips if judge(c, filters, motion).rejected_by is None]
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


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"max_duration_s": 3.0}, Rejection.TOO_LONG),
        ({"min_num_frames": 97}, Rejection.TOO_SHORT),
        ({"max_height_px": 359}, Rejection.TOO_LARGE),
        ({"min_width_px": 641}, Rejection.TOO_SMALL),
        ({"max_fps": 23.9}, Rejection.WRONG_RATE),
    ],
)
def test_what_a_clip_knows_of_itself_is_limited_on_both_sides(
    limit: dict[str, float], reason: Rejection
) -> None:
    config = FilterConfig.model_validate(limit)
    assert judge(clip_record(scores=GOOD), config, ALL_THRESHOLDS).rejected_by is reason
    assert decide() is None


def test_every_limit_of_the_configuration_is_applied_and_every_score_has_two() -> None:
    fields = [name for name in FilterConfig.model_fields if name.startswith(("min_", "max_"))]
    assert fields == [threshold.field for threshold in ALL_THRESHOLDS]
    assert {t.score for t in FRAME_THRESHOLDS} == FRAME_SCORER_OF.keys()
    assert {t.score for t in CAPTION_THRESHOLDS} == {*SIMILARITY_OF, *DSG_SCORES}
    counts = DsgCounts(
        num_objects=1, num_hallucinated_objects=0, num_sentences=1, num_hallucinated_sentences=0
    )
    assert set(dsg_scores(counts, "test")) == set(DSG_SCORES)


def test_a_minimum_above_its_maximum_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"min_motion is 0.5, above max_motion, which is 0.2"):
        FilterConfig(min_motion=0.5, max_motion=0.2)


@pytest.mark.parametrize(
    ("filters", "name", "reason"),
    [
        ({"categories": ("food", "animals")}, "food", None),
        ({"categories": ("animals",)}, "food", Rejection.WRONG_CATEGORY),
        ({"categories": ("animals",)}, None, Rejection.WRONG_CATEGORY),
        ({"no_categories": ("food",)}, "food", Rejection.WRONG_CATEGORY),
        ({"no_categories": ("food",)}, None, None),
    ],
)
def test_categories_are_chosen_or_left_out(
    filters: dict[str, tuple[str, ...]], name: str | None, reason: Rejection | None
) -> None:
    category = None if name is None else Category(name=name, backend="test")
    record = clip_record(scores=GOOD, category=category)
    assert judge_captioned(record, FilterConfig.model_validate(filters)).rejected_by is reason


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"scores": {"frame_scorers": ()}}, r"filters.max_brisque needs .*add 'quality' to scores"),
        ({"filters": {"min_aesthetic": 5}}, r"filters.min_aesthetic .*add 'aesthetic'"),
        ({"filters": {"min_clip_similarity": 0.2}}, r"set scores.similarity to 'open_clip'"),
        ({"filters": {"max_dsg_video_i": 0.2}}, r"set hallucination.backend, or set filters"),
        ({"subsets": {"hq": {"min_aesthetic": 5}}}, r"subsets.hq.min_aesthetic .*'aesthetic'"),
        ({"filters": {"categories": ["cats"]}}, r"filters names the categories \['cats'\]"),
    ],
)
def test_a_limit_on_what_nobody_computes_is_one_line_before_any_work(
    config: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        DataEngineConfig.model_validate(config)


def test_a_subset_asks_for_what_was_given_alone_however_often_it_is_stored() -> None:
    config = DataEngineConfig(
        scores=ScoreConfig(frame_scorers=()),
        filters=FilterConfig(max_brisque=None, max_text_area=None),
        subsets={"sft": FilterConfig(min_sharpness="p50", max_motion=None)},
    )
    for mode in ("json", "python"):
        again = DataEngineConfig.model_validate(config.model_dump(mode=mode))
        assert again.subsets["sft"].as_subset().limits == {"min_sharpness": "p50"}
    assert DataEngineConfig.model_validate_json(config.model_dump_json()) == config
