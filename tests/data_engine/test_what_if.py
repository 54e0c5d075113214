from pathlib import Path

import pytest

from data_engine.config import FilterConfig
from data_engine.errors import TableError
from data_engine.filters import BEFORE_CAPTIONS, judge
from data_engine.schema import ClipRecord, Rejection
from data_engine.tables import DatasetPaths, write_clips
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
