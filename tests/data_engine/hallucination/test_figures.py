import pytest

from data_engine.hallucination import (
    DsgCounts,
    DsgFigures,
    ExistenceQuestion,
    dsg_counts,
    dsg_figures,
    dsg_scores,
    is_present,
    split_sentences,
    verdict_of,
)
from tests.factories import clip_record


def question(subject: str, sentence: int = 0) -> ExistenceQuestion:
    return ExistenceQuestion(subject=subject, text=f"Is there a {subject}?", sentence=sentence)


def counts(objects: int, hallucinated: int, sentences: int, with_one: int) -> DsgCounts:
    return DsgCounts(
        num_objects=objects,
        num_hallucinated_objects=hallucinated,
        num_sentences=sentences,
        num_hallucinated_sentences=with_one,
    )


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([False, False, False], False),
        ([False, True, False], True),
        ([None, True], True),
        ([False, None], None),
        ([None, None], None),
        ([], None),
    ],
)
def test_an_object_is_hallucinated_only_if_every_frame_says_absent(
    frames: list[bool | None], expected: bool | None
) -> None:
    assert is_present(frames) is expected


def test_a_caption_is_counted_by_its_objects_and_its_sentences() -> None:
    questions = [question("dog", 0), question("cat", 1), question("bus", 1), question("tree", 2)]
    answers = [[True, False], [False, False], [False, False], [None, False]]
    verdict = verdict_of(questions, answers, num_sentences=4)
    assert verdict.hallucinated == ("cat", "bus")
    # Nobody could say whether there is a tree, so that it is no object of the figures.
    assert verdict.counts == counts(3, 2, 4, 1)


@pytest.mark.parametrize("answers", [[], [[None, False]]])
def test_what_cannot_be_answered_is_unknown_and_not_zero(answers: list[list[bool | None]]) -> None:
    questions = [question("dog")] * len(answers)
    assert verdict_of(questions, answers, num_sentences=1).counts is None


def test_the_aggregate_divides_sums_and_does_not_average_ratios() -> None:
    judged = [counts(1, 1, 1, 1), counts(9, 0, 3, 0), counts(10, 4, 4, 1)]
    assert dsg_figures(judged) == DsgFigures(dsg_video_i=5 / 20, dsg_video_s=2 / 8)
    assert dsg_figures([]) is None


def test_counts_travel_in_the_scores_of_a_clip() -> None:
    judged = counts(4, 1, 2, 1)
    record = clip_record(scores=dsg_scores(judged, "test"))
    assert dsg_counts(record.scores) == judged
    assert record.score("dsg_video_i") == 0.25
    assert dsg_counts({}) is None


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("A dog.", ["A dog."]),
        ("A dog runs. It barks! Why?", ["A dog runs.", "It barks!", "Why?"]),
        ("It costs 3.5 dollars, i.e. little.", ["It costs 3.5 dollars, i.e. little."]),
        ("猫が座る。犬が走る。", ["猫が座る。", "犬が走る。"]),
        ("", [""]),
    ],
)
def test_sentences_are_told_apart(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences
