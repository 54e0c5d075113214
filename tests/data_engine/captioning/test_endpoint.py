from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from data_engine.caption_config import CaptionConfig, EndpointConfig
from data_engine.captioning import CAPTIONERS, CaptionRequest
from data_engine.captioning.chat import Answer, ChatModel, Failure, Question, open_chat_model
from data_engine.captioning.endpoint import EndpointChat, check_endpoint
from data_engine.errors import JobError
from data_engine.schema import Caption
from data_engine.scores.classifier import ImageNetClassifier
from tests.data_engine.captioning.chat_server import MODEL, Asked, ChatServer, Reply

RED, BLUE = (220, 30, 30), (30, 30, 220)


def plain(colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    return np.full((48, 64, 3), colour, dtype=np.uint8)


def config(server: ChatServer, **changes: object) -> EndpointConfig:
    return EndpointConfig(url=server.url, model=MODEL, max_backoff_s=0.01).model_copy(
        update=changes
    )


def replies(*given: Reply) -> Callable[[Asked], Reply]:
    """One after another; the last for ever."""
    left = list(given)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def colour_of(asked: Asked) -> str:
    """What a person would answer about pictures of one colour."""
    names = ["red" if image.mean(axis=(0, 1))[0] > 128 else "blue" for image in asked.images]
    return f"Seen in this order: {', '.join(names)}."


def ask(model: ChatModel) -> Answer | Failure:
    (answer,) = model.ask([Question(prompt="What is it?", images=[plain(RED)])])
    return answer


def test_frames_reach_the_server_in_order_and_the_answer_becomes_a_caption(
    server: ChatServer, classifier: ImageNetClassifier
) -> None:
    server.reply = lambda asked: Reply(colour_of(asked))
    captions = CaptionConfig(
        captioners=("endpoint",), endpoint=config(server), prompt="Describe it.", num_frames=3
    )
    captioner = CAPTIONERS["endpoint"](captions, classifier=classifier, open_model=open_chat_model)
    images = [plain(RED), plain(RED), plain(BLUE), plain(BLUE), plain(RED), plain(RED)]
    requests = [CaptionRequest(images=images), CaptionRequest(images=[plain(BLUE)])]
    assert captioner.caption(requests) == [
        Caption(
            text=text,
            source="endpoint",
            model=f"endpoint:{MODEL}",
            prompt="Describe it.",
            num_tokens=num_tokens,
        )
        for text, num_tokens in (
            ("Seen in this order: red, blue, red.", 7),
            ("Seen in this order: blue.", 5),
        )
    ]
    assert [asked.prompt for asked in server.asked] == ["Describe it."] * 2


def test_a_question_without_pictures_is_plain_text(server: ChatServer) -> None:
    (answer,) = EndpointChat(config(server)).ask([Question(prompt="Merge these.")])
    assert isinstance(answer, Answer)
    assert server.asked[0].body["messages"] == [{"role": "user", "content": "Merge these."}]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_fails_twice_is_asked_a_third_time(server: ChatServer, status: int) -> None:
    server.reply = replies(Reply(status=status), Reply(status=status), Reply("A dog runs."))
    assert ask(EndpointChat(config(server))) == Answer(text="A dog runs.", num_tokens=3)
    assert len(server.asked) == 3


def test_a_server_that_keeps_failing_fails_its_clip_only(server: ChatServer) -> None:
    def fail_on_red(asked: Asked) -> Reply:
        is_red = colour_of(asked).endswith("red.")
        return Reply(status=500, raw=b"out of memory") if is_red else Reply("A blue wall.")

    server.reply = fail_on_red
    questions = [Question(prompt="?", images=[plain(colour)]) for colour in (BLUE, RED, BLUE)]
    first, second, third = EndpointChat(config(server, max_retries=2)).ask(questions)
    assert first == third == Answer(text="A blue wall.", num_tokens=3)
    assert second == Failure(
        "no answer in 3 tries; the last: status 500: 'out of memory'", is_transient=True
    )


def test_a_request_that_is_turned_down_is_not_sent_again(server: ChatServer) -> None:
    server.reply = replies(Reply(status=400, raw=b"too many pictures"))
    failure = ask(EndpointChat(config(server)))
    assert failure == Failure("the server turned the request down, status 400: 'too many pictures'")
    assert len(server.asked) == 1


def test_a_silent_server_is_given_up_after_the_timeout(server: ChatServer) -> None:
    server.reply = replies(Reply(delay_s=0.5), Reply("Late but there."))
    patient = config(server, timeout_s=0.1, max_retries=1)
    assert ask(EndpointChat(patient)) == Answer(text="Late but there.", num_tokens=3)
    server.reply = replies(Reply(delay_s=0.5))
    failure = ask(EndpointChat(config(server, timeout_s=0.1, max_retries=0)))
    assert isinstance(failure, Failure)
    assert failure.reason.startswith("no answer in 1 tries; the last: ReadTimeout")


def test_the_wait_that_the_server_asks_for_is_kept(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("data_engine.captioning.endpoint.time.sleep", waits.append)
    busy = Reply(status=429, headers={"Retry-After": "7"})
    server.reply = replies(busy, Reply(status=503), Reply(status=503), Reply())
    assert isinstance(ask(EndpointChat(config(server, max_backoff_s=60.0))), Answer)
    # The server itself sleeps as well, for no time.
    asked, second, third = (wait for wait in waits if wait > 0)
    assert asked == 7
    assert 0.3 < second < third < 1.3
    server.reply = replies(busy, Reply())
    waits.clear()
    assert isinstance(ask(EndpointChat(config(server, max_backoff_s=2.0))), Answer)
    assert 2.0 in waits


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("  \n"), "the answer is empty"),
        (Reply(None), "the answer is empty"),
        (Reply("A cat on a", finish_reason="length"), "the answer was cut in the middle; allow"),
        (Reply(raw=b"<html>welcome</html>"), "the answer is no chat completion: '<html>welcome"),
        (Reply(raw=b'{"choices": []}'), "the answer is no chat completion"),
    ],
)
def test_an_answer_that_is_no_caption_fails_its_clip(
    server: ChatServer, reply: Reply, reason: str
) -> None:
    server.reply = replies(reply)
    failure = ask(EndpointChat(config(server)))
    assert isinstance(failure, Failure)
    assert failure.reason.startswith(reason)


def test_requests_under_way_are_limited_and_run_side_by_side(server: ChatServer) -> None:
    server.reply = replies(Reply(delay_s=0.05))
    EndpointChat(config(server, max_concurrency=3)).ask([Question(prompt="?")] * 9)
    assert server.most_under_way == 3


def test_only_a_model_that_draws_is_given_a_seed(server: ChatServer) -> None:
    question = Question(prompt="?", seed=5)
    for temperature in (0.0, 0.7):
        EndpointChat(config(server, temperature=temperature)).ask([question])
    assert "seed" not in server.asked[0].body
    assert (server.asked[1].body["seed"], server.asked[1].body["temperature"]) == (5, 0.7)


def test_the_key_comes_from_the_environment_and_is_stored_nowhere(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "sk-secret"
    with_key = config(server, api_key_variable="STIV_TEST_KEY")
    monkeypatch.setenv("STIV_TEST_KEY", "sk-secret")
    check_endpoint(with_key)
    assert isinstance(ask(EndpointChat(with_key)), Answer)
    assert "sk-secret" not in with_key.model_dump_json()
    monkeypatch.setenv("STIV_TEST_KEY", "sk-wrong")
    with pytest.raises(JobError, match="status 401, so it wants another key; set STIV_TEST_KEY"):
        check_endpoint(with_key)
    with pytest.raises(JobError, match="status 401") as caught:
        ask(EndpointChat(with_key))
    assert "sk-wrong" not in str(caught.value)
    monkeypatch.delenv("STIV_TEST_KEY")
    with pytest.raises(JobError, match=r"STIV_TEST_KEY should hold the key for .* not set"):
        check_endpoint(with_key)


def test_a_wrong_address_or_model_is_one_line_before_the_work(server: ChatServer) -> None:
    check_endpoint(config(server))
    with pytest.raises(JobError, match=f"has no model 'no-such'; it has {MODEL}"):
        check_endpoint(config(server, model="no-such"))
    with pytest.raises(JobError, match=r"no OpenAI-compatible server: .* status 404"):
        check_endpoint(config(server, url=server.url.removesuffix("/v1")))
    with pytest.raises(JobError, match=r"no captioning server answers at http://127.0.0.1:9/v1"):
        check_endpoint(config(server, url="http://127.0.0.1:9/v1"))
    with pytest.raises(JobError, match="no captioning server answers") as caught:
        check_endpoint(config(server, url="http://no-such-host.invalid/v1"))
    assert "\n" not in str(caught.value)


def test_the_configuration_refuses_what_cannot_work() -> None:
    with pytest.raises(ValidationError, match="starts with http"):
        EndpointConfig(url="file:///etc/passwd")
    with pytest.raises(ValidationError, match="api_key_variable"):
        EndpointConfig(url="https://user:secret@host/v1")
    with pytest.raises(ValidationError, match=r"set captions\.endpoint\.model"):
        CaptionConfig(captioners=("endpoint",))
    with pytest.raises(ValidationError, match="none of them twice"):
        CaptionConfig(captioners=("template", "template"))
