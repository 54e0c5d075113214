import pytest

from data_engine.config import FilterConfig
from data_engine.schema import Rejection
from data_engine.statistics import at_limits, by_source, spreads
from tests.factories import caption, clip_record, scores


def test_each_source_counts_its_own_clips() -> None:
    clips = [
        clip_record(source_uri="a.mp4"),
        clip_record(source_uri="b.mp4", start_s=0.0),
        clip_record(source_uri="b.mp4", start_s=4.0, end_s=6.0),
        clip_record(source_uri="b.mp4", start_s=9.0, rejected_by=Rejection.TOO_DARK),
    ]
    rows = by_source(clips)
    assert [(r.uri, r.num_cut, r.num_kept, r.kept_s) for r in rows] == [
        ("b.mp4", 3, 2, 6.0),
        ("a.mp4", 1, 1, 4.0),
    ]


def test_the_clips_nearest_to_a_limit_are_shown_from_both_sides() -> None:
    clips = [
        clip_record(start_s=float(i), end_s=i + 4.0, scores=scores(motion=i / 100))
        for i in range(10)
    ]
    found = at_limits(FilterConfig(min_motion=0.045), clips, 2)
    assert list(found) == ["motion >= 0.045"]
    assert [(round(at.value, 2), at.is_inside) for at in found["motion >= 0.045"]] == [
        (0.03, False),
        (0.04, False),
        (0.05, True),
        (0.06, True),
    ]


def test_a_limit_that_nobody_is_beyond_is_left_out() -> None:
    clips = [clip_record(scores=scores(motion=0.5))]
    assert at_limits(FilterConfig(min_motion=0.1), clips, 3) == {}


def test_spreads_are_those_of_the_kept_clips() -> None:
    clips = [
        clip_record(start_s=float(i), end_s=2.0 * i + 1, captions=(caption("A cat sits."),))
        for i in range(3)
    ]
    clips.append(clip_record(end_s=500.0, rejected_by=Rejection.TOO_DARK))
    found = {spread.name: spread for spread in spreads(clips)}
    assert found["duration (s)"].median == pytest.approx(2.0)
    assert found["duration (s)"].p95 < 4
    assert found["words in the caption"].p5 == 3
