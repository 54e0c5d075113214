"""What captioners write, and by which version it is known."""

from collections.abc import Callable

import numpy as np
import pytest

from data_engine.caption_config import (
    CaptionConfig,
    EndpointConfig,
    HallucinationConfig,
    LintConfig,
    TransformersConfig,
)
from data_engine.caption_judging import judge_versions
from data_engine.caption_writing import (
    FAILED,
    CaptionFinding,
    Written,
    captioner_versions,
    write_captions,
)
from data_engine.captioning import CAPTIONERS, CaptionRequest
from data_engine.captioning.chat import open_chat_model
from data_engine.captioning.lints import Fault
from data_engine.config import DataEngineConfig, ScoreConfig
from data_engine.schema import Caption
from data_engine.scores.classifier import ImageNetClassifier
from tests.data_engine.captioning.chat_server import (
    MODEL,
    Asked,
    ChatServer,
    Reply,
    running_chat_server,
)

GOOD = "A cup of coffee stands on a saucer. The camera does not move."
REFUSAL = "I'm sorry, I cannot describe this."


def captions_by(server: ChatServer, temperature: float = 0.7) -> CaptionConfig:
    endpoint = EndpointConfig(url=server.url, model=MODEL, max_retries=0, temperature=temperature)
    return CaptionConfig(captioners=("endpoint",), endpoint=endpoint)


def written(server: ChatServer, config: CaptionConfig, num_clips: int) -> list[Written]:
    captioner = CAPTIONERS["endpoint"](
        config, classifier=ImageNetClassifier(), open_model=open_chat_model
    )
    requests = [
        CaptionRequest(images=[np.full((32, 32, 3), 40 * i, dtype=np.uint8)])
        for i in range(num_clips)
    ]
    return write_captions("endpoint", captioner, requests, LintConfig())


def test_a_caption_at_fault_is_drawn_once_more_and_only_that() -> None:
    def reply(asked: Asked) -> Reply:
        is_second_clip = 30 < asked.images[0].mean() < 50
        return Reply(REFUSAL if is_second_clip and not asked.body["seed"] else GOOD)

    with running_chat_server() as server:
        server.reply = reply
        outcomes = written(server, captions_by(server), num_clips=3)
        assert [o.text for o in outcomes if isinstance(o, Caption)] == [GOOD] * 3
        assert sorted(asked.body["seed"] for asked in server.asked) == [0, 0, 0, 1]


@pytest.mark.parametrize(("temperature", "num_asked"), [(0.0, 1), (0.7, 2)])
def test_a_caption_that_stays_at_fault_becomes_a_finding(
    temperature: float, num_asked: int
) -> None:
    with running_chat_server() as server:
        server.reply = lambda _: Reply(REFUSAL)
        outcomes = written(server, captions_by(server, temperature), num_clips=1)
        assert outcomes == [CaptionFinding("endpoint", Fault.REFUSAL, '"I\'m sorry"')]
        assert len(server.asked) == num_asked


def test_a_failed_request_is_not_drawn_again() -> None:
    with running_chat_server() as server:
        server.reply = lambda _: Reply("")
        outcomes = written(server, captions_by(server), num_clips=1)
        assert outcomes == [CaptionFinding("endpoint", FAILED, "the answer is empty")]
        assert len(server.asked) == 1


ENDPOINT = EndpointConfig(model="a")
CONFIG = DataEngineConfig(
    captions=CaptionConfig(captioners=("endpoint", "template"), endpoint=ENDPOINT),
    hallucination=HallucinationConfig(backend="endpoint", endpoint=EndpointConfig(model="b")),
)


def captions(**changes: object) -> DataEngineConfig:
    changed = CONFIG.captions.model_copy(update=changes)
    return CONFIG.model_copy(update={"captions": changed})


def changed_versions(
    versions: Callable[[DataEngineConfig], dict[str, str]], config: DataEngineConfig
) -> set[str]:
    """Whose version another configuration changes, or adds."""
    before = versions(CONFIG)
    return {name for name, version in versions(config).items() if before.get(name) != version}


@pytest.mark.parametrize(
    ("config", "captioners", "judges"),
    [
        (CONFIG, set[str](), set[str]()),
        (captions(prompt="Say it."), {"endpoint"}, set[str]()),
        (captions(num_frames=2), {"endpoint"}, set[str]()),
        (captions(lints=LintConfig(max_words=50)), {"endpoint"}, set[str]()),
        (captions(endpoint=EndpointConfig(model="c")), {"endpoint"}, set[str]()),
        (captions(endpoint=EndpointConfig(model="a", temperature=0)), {"endpoint"}, set[str]()),
        (captions(captioners=("template", "endpoint")), set[str](), set[str]()),
        (
            captions(captioners=("vlm", "endpoint", "template"), vlm=TransformersConfig(model="v")),
            {"vlm"},
            set[str](),
        ),
        (
            captions(
                endpoint=EndpointConfig(
                    model="a",
                    url="http://elsewhere/v1",
                    api_key_variable="KEY",
                    timeout_s=1,
                    max_retries=0,
                    max_backoff_s=1,
                    max_concurrency=1,
                )
            ),
            set[str](),
            set[str](),
        ),
        (
            captions(categories=CONFIG.captions.categories.model_copy(update={"min_cosine": 0.5})),
            set[str](),
            {"category"},
        ),
        (
            CONFIG.model_copy(update={"hallucination": HallucinationConfig(backend="embedded")}),
            set[str](),
            {"dsg_video"},
        ),
        (
            CONFIG.model_copy(update={"scores": ScoreConfig(similarity="open_clip")}),
            set[str](),
            {"similarity"},
        ),
        (
            CONFIG.model_copy(update={"scores": ScoreConfig(frame_scorers=("quality",))}),
            {"template"},
            set[str](),
        ),
    ],
)
def test_a_change_concerns_only_what_it_is_about(
    config: DataEngineConfig, captioners: set[str], judges: set[str]
) -> None:
    assert changed_versions(captioner_versions, config) == captioners
    assert changed_versions(judge_versions, config) == judges


def test_what_is_not_asked_has_no_version() -> None:
    quiet = captions(categories=CONFIG.captions.categories.model_copy(update={"names": ()}))
    assert list(judge_versions(quiet)) == ["similarity", "dsg_video"]
    assert list(judge_versions(DataEngineConfig())) == ["similarity", "category"]
    assert captioner_versions(captions(captioners=())) == {}
