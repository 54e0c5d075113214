import pytest

from data_engine.caption_writing import CaptionFinding
from data_engine.config import FilterConfig
from data_engine.describing import Description
from data_engine.hallucination import DsgCounts, dsg_scores
from data_engine.schema import Rejection
from data_engine.statistics import (
    CaptionerCounts,
    at_limits,
    by_captioner,
    by_source,
    hallucination,
    spreads,
)
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


def test_captioners_count_what_they_wrote_and_what_was_refused() -> None:
    clips = [
        clip_record(start_s=float(i), captions=(caption("A cat sits.", source="vlm"),))
        for i in range(3)
    ]
    said = [
        Description(
            clip_id=clip_id,
            captions=(),
            scores={},
            category=None,
            findings=(CaptionFinding("endpoint", "refusal", "I cannot"),),
            error=None,
        )
        for clip_id in (clips[0].clip_id, clips[1].clip_id, "of another time")
    ]
    assert by_captioner(clips, said) == [
        CaptionerCounts("endpoint", 0, {"refusal": 2}),
        CaptionerCounts("vlm", 3, {}),
    ]


def test_hallucination_sums_before_it_divides() -> None:
    few = DsgCounts(
        num_objects=1, num_hallucinated_objects=1, num_sentences=1, num_hallucinated_sentences=1
    )
    many = DsgCounts(
        num_objects=9, num_hallucinated_objects=1, num_sentences=1, num_hallucinated_sentences=1
    )
    none = DsgCounts(
        num_objects=10, num_hallucinated_objects=0, num_sentences=2, num_hallucinated_sentences=0
    )
    clips = [clip_record(scores=dsg_scores(counts, "judge")) for counts in (few, many, none)]
    clips.append(clip_record())
    (found,) = hallucination(clips)
    assert (found.num_clips, found.num_objects) == (3, 20)
    assert (found.dsg_video_i, found.dsg_video_s) == (0.1, 0.5)
