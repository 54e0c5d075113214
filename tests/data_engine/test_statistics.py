import pytest

from data_engine.caption_judging import Judgement
from data_engine.caption_writing import CaptionFinding
from data_engine.config import FilterConfig
from data_engine.describing import Description, JudgedCaption
from data_engine.hallucination import DsgCounts, dsg_scores
from data_engine.schema import Rejection
from data_engine.statistics import (
    CaptionerCounts,
    Hallucination,
    at_limits,
    by_captioner,
    by_source,
    caption_lengths,
    caption_panels,
    hallucination,
    score_panels,
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
    found = {spread.name: spread for spread in spreads(FilterConfig(min_duration_s="p0"), clips)}
    assert found["duration_s"].median == pytest.approx(2.0)
    assert found["duration_s"].p95 < 4
    assert found["duration_s"].limits == ">= 1"
    assert found["height_px"].limits == ">= 128"
    assert found["words in the first caption"].p5 == 3


def test_every_score_has_a_panel_with_its_limits() -> None:
    clips = [
        clip_record(start_s=float(i), scores=scores(motion=i / 10, motion_p90=i / 10))
        for i in range(11)
    ]
    panels = score_panels(FilterConfig(min_motion="p20"), clips)
    assert panels["motion_p90"] == ([i / 10 for i in range(11)], [], [])
    assert panels["motion"][1:] == ([">= 0.2", "<= 1"], [pytest.approx(0.2), 1.0])
    assert {"duration_s", "fps", "width_px"} <= panels.keys()
    assert "brisque" not in panels


def test_the_lengths_of_captions_are_counted_by_source() -> None:
    said = (caption("A cat sits.", source="vlm"), caption("Cat. " * 21, source="original"))
    clips = [clip_record(captions=said), clip_record(start_s=9.0, captions=said[:1])]
    clips.append(clip_record(start_s=20.0, captions=said, rejected_by=Rejection.TOO_DARK))
    assert caption_lengths(clips) == {"original": [0, 0, 1, 0, 0, 0], "vlm": [2, 0, 0, 0, 0, 0]}
    assert caption_panels(clips)["words, vlm"] == ([3.0, 3.0], [], [])


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


def judged(clip_id: str, **by_source: DsgCounts) -> Description:
    """A clip whose captions of several sources were judged."""
    captions = {name: caption(f"Of {name}.", source=name) for name in by_source}
    return Description(
        clip_id=clip_id,
        captions=tuple(captions.values()),
        scores={},
        category=None,
        findings=(),
        error=None,
        judged=tuple(
            JudgedCaption(captions[name], (Judgement(dsg_scores(counts, "judge")),))
            for name, counts in by_source.items()
        ),
    )


def counts(objects: int, hallucinated: int, sentences: int, of_them: int) -> DsgCounts:
    return DsgCounts(
        num_objects=objects,
        num_hallucinated_objects=hallucinated,
        num_sentences=sentences,
        num_hallucinated_sentences=of_them,
    )


def test_hallucination_sums_before_it_divides_and_tells_captioners_apart() -> None:
    clips = [clip_record(start_s=float(i)) for i in range(4)]
    described = [
        judged(clips[0].clip_id, vlm=counts(1, 1, 1, 1), template=counts(4, 0, 1, 0)),
        judged(clips[1].clip_id, vlm=counts(9, 1, 1, 1)),
        judged(clips[2].clip_id, vlm=counts(10, 0, 2, 0)),
        judged(clips[3].clip_id),
        judged("of another data set", vlm=counts(1, 1, 1, 1)),
    ]
    assert hallucination(clips, described) == [
        Hallucination("template", "judge", 1, 4, 0.0, 0.0),
        Hallucination("vlm", "judge", 3, 20, 0.1, 0.5),
    ]
