from dataclasses import asdict, replace

import numpy as np
import pytest
from skimage import data as photographs

from data_engine.caption_config import (
    CaptionConfig,
    CategoryConfig,
    EndpointConfig,
    HallucinationConfig,
    LintConfig,
)
from data_engine.captioning import CAPTIONERS, CaptionRequest
from data_engine.captioning.chat import open_chat_model
from data_engine.captioning.lints import Fault
from data_engine.config import ScoreConfig
from data_engine.describing import (
    FAILED,
    CaptionFinding,
    ClipFrames,
    Describer,
    Description,
    check_chat_models,
    write_captions,
)
from data_engine.errors import JobError
from data_engine.hallucination import dsg_counts
from data_engine.schema import Caption, ClipRecord, ClipStatus
from data_engine.scores.classifier import ImageNetClassifier
from tests.data_engine.captioning.chat_server import (
    MODEL,
    Asked,
    ChatServer,
    Reply,
    running_chat_server,
)
from tests.factories import clip_record

GOOD = "A cup of coffee stands on a saucer. The camera does not move."
REFUSAL = "I'm sorry, I cannot describe this."


def captions_by(server: ChatServer, temperature: float = 0.7) -> CaptionConfig:
    endpoint = EndpointConfig(url=server.url, model=MODEL, max_retries=0, temperature=temperature)
    return CaptionConfig(captioners=("endpoint",), endpoint=endpoint)


def written(
    server: ChatServer, config: CaptionConfig, num_clips: int
) -> list[Caption | CaptionFinding]:
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


def coffee(**changes: object) -> ClipFrames:
    record = clip_record(**changes)
    return ClipFrames(record, [photographs.coffee()[::2, ::2]] * 2)


@pytest.mark.slow
def test_captions_of_several_captioners_stand_before_the_original_ones() -> None:
    original = Caption(text="IMG 2034", source="original", model="manifest")
    stale = Caption(text="Old.", source="template", model="earlier")
    with running_chat_server() as server:
        server.reply = lambda _: Reply(GOOD)
        config = captions_by(server).model_copy(update={"captioners": ("endpoint", "template")})
        checked = HallucinationConfig(backend="embedded", num_frames=1)
        check_chat_models(config, checked)
        describer = Describer(config, ScoreConfig(), checked)
        clip = coffee(captions=(original, stale))
        (description,) = describer.describe([clip])
        (again,) = describer.describe([replace(clip, record=description.applied_to(clip.record))])
    assert [caption.source for caption in description.captions] == [
        "endpoint",
        "template",
        "original",
    ]
    assert description.captions[2] == original
    record = description.applied_to(clip.record)
    assert record.status is ClipStatus.KEPT
    assert record.category is not None
    assert record.category.name == "food"
    similarity = record.score("conse_similarity")
    assert similarity is not None
    assert similarity > 0.2
    counts = dsg_counts(record)
    assert counts is not None
    assert (counts.num_objects, counts.num_hallucinated_objects) == (2, 0)
    assert again == description
    assert Description.from_dict(asdict(description)) == description
    assert ClipRecord.from_json(record.to_json()) == record


@pytest.mark.slow
def test_the_trouble_of_one_clip_stays_with_it() -> None:
    original = Caption(text="A cup of coffee.", source="original", model="manifest")

    def reply(asked: Asked) -> Reply:
        return Reply(status=500) if asked.images[0].mean() < 10 else Reply(GOOD)

    black = [np.zeros((32, 32, 3), dtype=np.uint8)]
    with running_chat_server() as server:
        server.reply = reply
        config = captions_by(server).model_copy(update={"categories": CategoryConfig(names=())})
        describer = Describer(config, ScoreConfig(), HallucinationConfig())
        good, failed, rescued = describer.describe(
            [
                coffee(),
                ClipFrames(clip_record(start_s=4.0, end_s=8.0), black),
                ClipFrames(clip_record(start_s=8.0, end_s=12.0, captions=(original,)), black),
            ]
        )
    assert (good.error, good.findings, good.category) == (None, (), None)
    assert failed.captions == ()
    assert failed.scores == {}
    assert failed.error is not None
    assert failed.error.startswith("no caption: endpoint failed (no answer in 1 tries; the last: ")
    assert failed.applied_to(clip_record(start_s=4.0, end_s=8.0)).status is ClipStatus.FAILED
    assert rescued.captions == (original,)
    assert rescued.error is None
    assert [finding.reason for finding in rescued.findings] == [FAILED]
    assert "conse_similarity" in rescued.scores


def test_a_model_that_is_not_there_stops_the_job_before_it_begins() -> None:
    with running_chat_server() as server:
        config = captions_by(server)
        check_chat_models(config, HallucinationConfig())
        # Models that nothing uses are not looked for.
        check_chat_models(CaptionConfig(endpoint=EndpointConfig(model="x")), HallucinationConfig())
        judge = HallucinationConfig(
            backend="endpoint", endpoint=EndpointConfig(url=server.url, model="judge")
        )
        with pytest.raises(JobError, match="no model 'judge'"):
            check_chat_models(config, judge)
    with pytest.raises(JobError, match="no captioning server answers"):
        check_chat_models(config, HallucinationConfig())
