from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from skimage import data as photographs

from data_engine.append_only import CAPTIONS, JUDGEMENTS
from data_engine.caption_config import (
    CaptionConfig,
    CategoryConfig,
    EndpointConfig,
    HallucinationConfig,
)
from data_engine.caption_judging import (
    CaptionJudge,
    Judgement,
    judge_versions,
    judgements_goal,
    judgements_row,
)
from data_engine.caption_writing import (
    UNANSWERED,
    CaptionFinding,
    CaptionWriter,
    ClipFrames,
    captioner_versions,
    captions_goal,
    captions_row,
)
from data_engine.config import DataEngineConfig
from data_engine.describing import (
    Description,
    JudgedCaption,
    captions_of,
    check_chat_models,
    described,
    judged_texts,
    read_descriptions,
)
from data_engine.errors import JobError
from data_engine.hallucination import dsg_counts
from data_engine.hallucination.checker import CaptionedFrames
from data_engine.schema import Caption, Category, ClipRecord, ClipStatus
from data_engine.tables import DatasetPaths, write_table
from tests.data_engine.captioning.chat_server import (
    MODEL,
    Asked,
    ChatServer,
    Reply,
    running_chat_server,
)
from tests.factories import clip_record, scores

GOOD = "A cup of coffee stands on a saucer. The camera does not move."


def captions_by(server: ChatServer) -> CaptionConfig:
    endpoint = EndpointConfig(url=server.url, model=MODEL, max_retries=0, temperature=0.7)
    return CaptionConfig(captioners=("endpoint",), endpoint=endpoint)


def describe(config: DataEngineConfig, clips: list[ClipFrames]) -> list[Description]:
    """What the captioners and the judges of a configuration say of clips, one after another."""
    writer, judge = CaptionWriter(config), CaptionJudge(config)
    found: list[Description] = []
    for clip in clips:
        written = [writer.write(name, [clip])[0] for name in config.captions.captioners]
        captions = captions_of(clip.record, written)
        said = {
            text: [
                judge.judge(name, [CaptionedFrames(text, clip.images)])[0]
                for name in judge_versions(config)
            ]
            for text in judged_texts(config, captions)
        }
        found.append(described(clip.record, written, said))
    return found


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
        engine = DataEngineConfig(captions=config, hallucination=checked)
        clip = coffee(captions=(original, stale))
        (description,) = describe(engine, [clip])
        (again,) = describe(engine, [replace(clip, record=description.applied_to(clip.record))])
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
    counts = dsg_counts(record.scores)
    assert counts is not None
    assert (counts.num_objects, counts.num_hallucinated_objects) == (2, 0)
    assert again == description
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
        good, failed, rescued = describe(
            DataEngineConfig(captions=config),
            [
                coffee(),
                ClipFrames(clip_record(start_s=4.0, end_s=8.0), black),
                ClipFrames(clip_record(start_s=8.0, end_s=12.0, captions=(original,)), black),
            ],
        )
    assert (good.error, good.findings, good.category) == (None, (), None)
    assert failed.captions == ()
    assert failed.scores == {}
    assert failed.error is not None
    assert failed.error.startswith(
        "no caption: endpoint unanswered (no answer in 1 tries; the last: "
    )
    assert failed.applied_to(clip_record(start_s=4.0, end_s=8.0)).status is ClipStatus.FAILED
    assert rescued.captions == (original,)
    assert rescued.error is None
    assert [finding.reason for finding in rescued.findings] == [UNANSWERED]
    assert "conse_similarity" in rescued.scores


CONFIG = DataEngineConfig(
    captions=CaptionConfig(
        captioners=("endpoint", "template"), endpoint=EndpointConfig(model="test")
    )
)
TEMPLATE = Caption(text="A cat.", source="template", model="test")
REFUSED = CaptionFinding("endpoint", "refusal", "no")


def write_captions_of(paths: DatasetPaths, record: ClipRecord, versions: dict[str, str]) -> None:
    outcomes = {"endpoint": REFUSED, "template": TEMPLATE}
    rows = [
        captions_row(record.clip_id, name, versions[name], outcome)
        for name, outcome in outcomes.items()
        if name in versions
    ]
    part = paths.captions / f"{len(list(paths.captions.glob('*')))}.parquet"
    write_table(part, rows, CAPTIONS, captions_goal(CONFIG))


def write_judgements_of(paths: DatasetPaths, record: ClipRecord, text: str) -> None:
    said = {
        "similarity": Judgement(scores(conse_similarity=0.3)),
        "category": Judgement(category=Category(name="animals", backend="test")),
    }
    rows = [
        judgements_row(record.clip_id, text, (name, version), said[name])
        for name, version in judge_versions(CONFIG).items()
    ]
    part = paths.judgements / f"{len(list(paths.judgements.glob('*')))}.parquet"
    write_table(part, rows, JUDGEMENTS, judgements_goal(CONFIG))


def test_a_clip_is_described_once_all_was_said_of_it(tmp_path: Path) -> None:
    paths, record, versions = DatasetPaths(tmp_path), clip_record(), captioner_versions(CONFIG)

    def read() -> list[Description]:
        return list(read_descriptions(CONFIG, paths, [record]))

    write_captions_of(paths, record, {"template": versions["template"], "endpoint": "older"})
    write_judgements_of(paths, record, "Another text.")
    assert read() == []
    write_captions_of(paths, record, {"endpoint": versions["endpoint"]})
    assert read() == []
    write_judgements_of(paths, record, TEMPLATE.text)
    expected = Description(
        clip_id=record.clip_id,
        captions=(TEMPLATE,),
        scores=scores(conse_similarity=0.3),
        category=Category(name="animals", backend="test"),
        findings=(REFUSED,),
        error=None,
        judged=(
            JudgedCaption(
                TEMPLATE,
                (
                    Judgement(scores(conse_similarity=0.3)),
                    Judgement(category=Category(name="animals", backend="test")),
                ),
            ),
        ),
    )
    assert read() == [expected]
    # A table of other frames vouches for nothing.
    decode = CONFIG.decode.model_copy(update={"frame_long_side_px": 64})
    other = CONFIG.model_copy(update={"decode": decode})
    assert list(read_descriptions(other, paths, [record])) == []


def test_all_captions_are_judged_or_the_first_alone(tmp_path: Path) -> None:
    paths, versions = DatasetPaths(tmp_path), captioner_versions(CONFIG)
    record = clip_record(captions=(Caption(text="Fur.", source="original", model="m"),))
    write_captions_of(paths, record, versions)
    write_judgements_of(paths, record, TEMPLATE.text)

    def judged_by(config: DataEngineConfig) -> list[list[str]]:
        found = read_descriptions(config, paths, [record])
        return [[judged.caption.source for judged in d.judged] for d in found]

    assert judged_by(CONFIG) == []
    captions = CONFIG.captions.model_copy(update={"judged": "first"})
    assert judged_by(CONFIG.model_copy(update={"captions": captions})) == [["template"]]
    write_judgements_of(paths, record, "Fur.")
    assert judged_by(CONFIG) == [["template", "original"]]


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
