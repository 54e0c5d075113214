from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_engine.config import FilterConfig
from data_engine.errors import TableError
from data_engine.filters import (
    BEFORE_CAPTIONS,
    CAPTION_THRESHOLDS,
    judge,
    judge_captioned,
    resolve_percentiles,
)
from data_engine.schema import Category, ClipRecord, ClipStatus, Crop, Rejection
from data_engine.tables import DatasetPaths, load_clips, write_clips
from data_engine.what_if import what_if
from tests.factories import clip_record, scores

NOW = FilterConfig()
FRAMES = scores(brisque=20.0, text_area=0.0)
CHEAP = scores(luminance=0.5, sharpness=100.0)


def scored(start_s: float, motion: float, **changes: object) -> ClipRecord:
    values = CHEAP | FRAMES | scores(motion=motion)
    return clip_record(start_s=start_s, end_s=start_s + 36.0, **{"scores": values, **changes})


@pytest.fixture
def paths(tmp_path: Path) -> DatasetPaths:
    """Two kept clips, one still one that was never scored further, and a copy."""
    still = scored(200.0, 0.001, scores=CHEAP | scores(motion=0.001))
    clips = [scored(0.0, 0.1), scored(100.0, 0.5), still, scored(300.0, 0.3)]
    paths = DatasetPaths(tmp_path)
    write_clips(paths.scored_clips, clips, "scored")
    decided = [judge(clip, NOW, BEFORE_CAPTIONS) for clip in clips]
    write_clips(paths.filtered_clips, decided, "filtered")
    copy = scored(300.0, 0.3, rejected_by=Rejection.DUPLICATE, duplicate_of=clips[0].clip_id)
    write_clips(paths.deduplicated_clips, [*decided[:2], copy], "deduplicated")
    return paths


def test_the_present_choice_gives_the_present_counts(paths: DatasetPaths) -> None:
    found = what_if(paths, NOW, NOW)
    assert found.now == found.then
    assert (found.now.num_kept, found.now.num_unknown) == (2, 0)
    assert found.now.rejected_by == {"too_static": 1, "duplicate": 1}
    assert (found.gained, found.lost) == ((), ())


def test_a_stricter_limit_drops_clips_and_hours(paths: DatasetPaths) -> None:
    found = what_if(paths, NOW, NOW.model_copy(update={"min_motion": 0.4}))
    assert (found.now.kept_hours, found.then.kept_hours) == pytest.approx((0.02, 0.01))
    assert [clip.start_s for clip in found.lost] == [0.0]
    assert found.lost[0].rejected_by is Rejection.TOO_STATIC


def test_a_clip_that_was_not_scored_far_enough_is_unknown_not_kept(paths: DatasetPaths) -> None:
    found = what_if(paths, NOW, NOW.model_copy(update={"min_motion": None}))
    assert (found.then.num_kept, found.then.num_unknown) == (2, 1)
    assert found.then.rejected_by == {"duplicate": 1}


def test_percentiles_are_taken_anew(paths: DatasetPaths) -> None:
    found = what_if(paths, NOW, NOW.model_copy(update={"min_motion": "p60"}))
    assert [clip.start_s for clip in found.lost] == [0.0]


def test_a_score_that_nobody_has_is_one_line(paths: DatasetPaths) -> None:
    asked = NOW.model_copy(update={"min_aesthetic": 5.0})
    with pytest.raises(TableError, match=r"filters.min_aesthetic needs the score 'aesthetic'"):
        what_if(paths, NOW, asked)


def by_records(records: list[ClipRecord], filters: FilterConfig) -> dict[str, Rejection | None]:
    """The same decisions, taken clip by clip as the steps do."""
    early = resolve_percentiles(filters, records, BEFORE_CAPTIONS)
    decided = [judge(record, early, BEFORE_CAPTIONS) for record in records]
    passed = [record for record in decided if record.status is ClipStatus.KEPT]
    late = resolve_percentiles(filters, passed, CAPTION_THRESHOLDS)
    for place, record in enumerate(decided):
        if record.status is ClipStatus.KEPT:
            record = judge_captioned(record, late)
            if record.status is ClipStatus.KEPT and record.duplicate_of is not None:
                record = replace(record, rejected_by=Rejection.DUPLICATE)
            decided[place] = record
    return {r.clip_id: r.rejected_by for r in decided if r.status is not ClipStatus.FAILED}


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> DatasetPaths:
    """Clips of every kind: cropped, failed, copies, without some scores, with captions and categories."""
    random = np.random.default_rng(0)
    crop = Crop(left_px=0, top_px=100, width_px=640, height_px=120)
    clips: list[ClipRecord] = []
    for number in range(300):
        values = {
            name: float(random.random())
            for name in ("motion", "luminance", "motion_p90", "text_area", "text_area_corners")
            if random.random() > 0.1
        } | {"sharpness": float(100 * random.random()), "brisque": float(90 * random.random())}
        length_s = float(0.5 + 5 * random.random())
        clips.append(
            clip_record(
                start_s=10.0 * number,
                end_s=10.0 * number + length_s,
                fps=float(random.choice([24.0, 30.0])),
                crop=crop if random.random() < 0.2 else None,
                error="gone" if random.random() < 0.05 else None,
                scores=scores(**values),
            )
        )
    paths = DatasetPaths(tmp_path_factory.mktemp("varied"))
    write_clips(paths.scored_clips, clips, "scored")
    decided = [judge(clip, NOW, BEFORE_CAPTIONS) for clip in clips]
    write_clips(paths.filtered_clips, decided, "filtered")
    kept = [clip for clip in decided if clip.status is ClipStatus.KEPT]
    copies = [
        replace(clip, rejected_by=Rejection.DUPLICATE, duplicate_of="another") for clip in kept[::7]
    ]
    others = [clip for clip in kept if clip not in kept[::7]]
    write_clips(paths.deduplicated_clips, [*copies, *others], "deduplicated")
    captioned = [
        replace(
            clip.with_scores(scores(conse_similarity=float(random.random()))),
            category=Category(name=str(random.choice(["food", "city"])), backend="test"),
        )
        for clip in others
    ]
    write_clips(paths.captioned_clips, captioned, "captioned")
    return paths


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"min_motion": 0.4},
        {"min_motion": "p30", "max_text_area": None, "max_motion_p90": "p80"},
        {"min_conse_similarity": "p50", "max_text_area": 0.5},
        {"min_height_px": 200, "max_fps": 25, "min_motion": None, "max_text_area": 1},
        {"no_categories": ("food",), "max_duration_s": "p75", "max_text_area": "p90"},
        {"categories": ("city",), "max_text_area_corners": 0.5, "max_brisque": None},
    ],
)
def test_columns_decide_as_records_do(varied: DatasetPaths, changes: dict[str, object]) -> None:
    then = FilterConfig.model_validate(changes)
    found = what_if(varied, NOW, then)
    records = [replace(record, rejected_by=None) for record in load_clips(varied)]
    before, after = by_records(records, NOW), by_records(records, then)
    hours = sum(c.duration_s for c in records if after.get(c.clip_id, "failed") is None) / 3600
    assert found.then.kept_hours == pytest.approx(hours)
    assert found.then.num_kept == sum(reason is None for reason in after.values())
    reasons = [str(reason) for reason in after.values() if reason is not None]
    counted = {name: reasons.count(name) for name in dict.fromkeys(reasons)}
    assert found.then.num_unknown == counted.pop("not_scored", 0)
    assert found.then.rejected_by == counted
    assert [c.clip_id for c in found.gained] == [
        i for i, reason in after.items() if reason is None and before[i] is not None
    ]
    assert {c.clip_id: c.rejected_by for c in found.lost} == {
        i: reason for i, reason in after.items() if reason is not None and before[i] is None
    }
