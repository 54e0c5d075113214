import json

import numpy as np
import pytest
from numpy.typing import NDArray

from data_engine.caption_config import EndpointConfig, HallucinationConfig
from data_engine.captioning.chat import Failure, open_chat_model
from data_engine.errors import JobError
from data_engine.hallucination import DsgCounts, Verdict
from data_engine.hallucination.asked import parse_questions, parse_yes_no
from data_engine.hallucination.checker import (
    CaptionedFrames,
    HallucinationChecker,
    check_hallucination_models,
    make_checker,
)
from data_engine.scores.classifier import ImageNetClassifier
from tests.data_engine.captioning.chat_server import MODEL, Asked, ChatServer, Reply

RED, BLUE = (220, 30, 30), (30, 30, 220)


def frames(*colours: tuple[int, int, int]) -> list[NDArray[np.uint8]]:
    return [np.full((32, 32, 3), colour, dtype=np.uint8) for colour in colours]


def answer(asked: Asked) -> Reply:
    """Asks for the colours that a caption names, and sees which colour a frame has."""
    if not asked.images:
        lines = asked.prompt.partition("Sentences:\n")[2].splitlines()
        entries = [
            {"detail": colour, "question": f"Is there a {colour} wall?", "sentence": i}
            for i, line in enumerate(lines, start=1)
            for colour in ("red", "blue", "green")
            if colour in line
        ]
        return Reply(f"Here you are:\n```json\n{json.dumps(entries)}\n```")
    (image,) = asked.images
    seen = "red" if image.mean(axis=(0, 1))[0] > 128 else "blue"
    return Reply("Yes." if f"a {seen} wall" in asked.prompt else "No, there is none.")


def checker(
    server: ChatServer, classifier: ImageNetClassifier, **changes: object
) -> HallucinationChecker:
    endpoint = EndpointConfig(url=server.url, model=MODEL, max_retries=0, temperature=0)
    config = HallucinationConfig(backend="endpoint", endpoint=endpoint, num_frames=3)
    config = config.model_copy(update=changes)
    check_hallucination_models(config)
    made = make_checker(config, classifier=classifier, open_model=open_chat_model)
    assert made is not None
    assert made.backend == f"endpoint:{MODEL}"
    return made


def counts(*values: int) -> DsgCounts:
    objects, hallucinated, sentences, with_one = values
    return DsgCounts(
        num_objects=objects,
        num_hallucinated_objects=hallucinated,
        num_sentences=sentences,
        num_hallucinated_sentences=with_one,
    )


def test_models_ask_and_judge_each_frame_alone(
    server: ChatServer, classifier: ImageNetClassifier
) -> None:
    server.reply = answer
    clips = [
        # One blue frame in three clears `blue`.
        CaptionedFrames("A red wall. Then a blue wall.", frames(RED, RED, BLUE)),
        CaptionedFrames("A red wall. Then a green wall.", frames(RED, RED, RED)),
        CaptionedFrames("A plain wall.", frames(RED)),
    ]
    assert checker(server, classifier).check(clips) == [
        Verdict(counts=counts(2, 0, 1, 0), hallucinated=()),
        Verdict(counts=counts(2, 1, 1, 1), hallucinated=("green",)),
        Verdict(counts=None, hallucinated=()),
    ]
    # Two questions on three frames, for two clips.
    assert sum(bool(asked.images) for asked in server.asked) == 12
    by_sentence = checker(server, classifier, sentence="sentence").check(clips)
    assert by_sentence[1] == Verdict(counts=counts(2, 1, 2, 1), hallucinated=("green",))


def test_one_failure_concerns_one_clip(server: ChatServer, classifier: ImageNetClassifier) -> None:
    def reply(asked: Asked) -> Reply:
        if "green" in asked.prompt:
            return Reply("I would rather not.") if not asked.images else Reply(status=500)
        return answer(asked)

    server.reply = reply
    red, green = (CaptionedFrames(f"A {colour} wall.", frames(RED)) for colour in ("red", "green"))
    first, second, third = checker(server, classifier).check([red, green, red])
    assert first == third == Verdict(counts=counts(1, 0, 1, 0), hallucinated=())
    assert second == Failure("the model wrote no list of questions: 'I would rather not.'")


def test_a_drawn_list_that_cannot_be_read_is_drawn_once_more(
    server: ChatServer, classifier: ImageNetClassifier
) -> None:
    server.reply = lambda asked: (
        answer(asked) if asked.images or asked.body["seed"] else Reply("[oh")
    )
    writer = EndpointConfig(url=server.url, model=MODEL, temperature=0.5)
    (verdict,) = checker(server, classifier, question_endpoint=writer).check(
        [CaptionedFrames("A red wall.", frames(BLUE))]
    )
    assert verdict == Verdict(counts=counts(1, 1, 1, 1), hallucinated=("red",))


def test_a_detail_is_one_object_however_often_it_is_asked_for() -> None:
    entry = {"detail": "Dog", "question": "Is there a dog?", "sentence": 1}
    again = {"detail": "dog", "question": "Does one see a dog?", "sentence": 2}
    questions = parse_questions(json.dumps([entry, again]), num_sentences=2)
    assert not isinstance(questions, Failure)
    assert [(q.subject, q.sentence) for q in questions] == [("Dog", 0)]
    assert isinstance(parse_questions(json.dumps([again]), num_sentences=1), Failure)
    assert isinstance(parse_questions('{"detail": "dog"}', num_sentences=1), Failure)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes", True),
        ("**yes**, a dog", True),
        ("No.", False),
        ("no", False),
        ("Not sure", None),
        ("Nothing can be said", None),
        ("Maybe", None),
    ],
)
def test_an_answer_that_is_neither_yes_nor_no_is_none(text: str, expected: bool | None) -> None:
    assert parse_yes_no(text) is expected


def test_a_judge_that_is_not_there_is_found_before_the_work(
    server: ChatServer, classifier: ImageNetClassifier
) -> None:
    absent = EndpointConfig(url=server.url, model="no-such")
    with pytest.raises(JobError, match="no model 'no-such'"):
        checker(server, classifier, question_endpoint=absent)
    assert (
        make_checker(HallucinationConfig(), classifier=classifier, open_model=open_chat_model)
        is None
    )
