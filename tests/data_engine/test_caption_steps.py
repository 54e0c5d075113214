"""Of captions and of what is said of them, only what a change concerns is asked for again."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_engine.caption_config import CaptionConfig, EndpointConfig, HallucinationConfig
from data_engine.config import (
    DataEngineConfig,
    DuplicateConfig,
    FilterConfig,
    ScoreConfig,
    ShotConfig,
    WorkerConfig,
)
from data_engine.describing import read_descriptions
from data_engine.errors import JobError
from data_engine.hallucination import dsg_counts
from data_engine.pipeline import (
    caption_clips,
    deduplicate_clips,
    filter_clips,
    probe_sources,
    score_clips,
)
from data_engine.schema import ClipRecord
from data_engine.statistics import hallucination
from data_engine.tables import DatasetPaths, read_clips
from tests.data_engine.captioning.chat_server import (
    MODEL,
    Asked,
    ChatServer,
    Reply,
    running_chat_server,
)
from tests.videos import frames_of, moving_texture, write_video

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.usefixtures("local_ray"),
    pytest.mark.filterwarnings("default"),
]

CAPTION = "A texture slides to the left. The camera pans."
QUESTIONS = '[{"detail": "texture", "question": "Is there a texture?", "sentence": 1}]'
NUM_CLIPS = 4


def reply(asked: Asked) -> Reply:
    if "JSON list" in asked.prompt:
        return Reply(QUESTIONS)
    return Reply("Yes." if "yes or no" in asked.prompt else CAPTION)


@pytest.fixture
def server() -> Generator[ChatServer]:
    with running_chat_server() as server:
        server.reply = reply
        yield server


def config_for(server: ChatServer, **endpoint: object) -> DataEngineConfig:
    model = EndpointConfig.model_validate(
        {"url": server.url, "model": MODEL, "max_retries": 0, **endpoint}
    )
    return DataEngineConfig(
        shots=ShotConfig(max_clip_s=2.5),
        scores=ScoreConfig(frame_scorers=()),
        filters=FilterConfig(max_brisque=None, max_text_area=None),
        duplicates=DuplicateConfig(max_similarity=None),
        captions=CaptionConfig(captioners=("endpoint",), endpoint=model),
    )


def asked_by(server: ChatServer) -> list[str]:
    """The prompts that came since the last call."""
    prompts = [asked.prompt for asked in server.asked]
    server.asked.clear()
    return prompts


def captioned(config: DataEngineConfig, paths: DatasetPaths) -> list[ClipRecord]:
    caption_clips(config, paths, lambda _: None)
    return read_clips(paths.captioned_clips)


@pytest.fixture(scope="module")
def deduplicated(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """A data set that is ready to be captioned."""
    root = tmp_path_factory.mktemp("deduplicated")
    for i in range(2):
        film = [(moving_texture(2 * i + shot), 48) for shot in range(2)]
        write_video(root / "sources" / f"{i}.mp4", frames_of(film), fps=24)
    paths = DatasetPaths(root / "dataset")
    with running_chat_server() as server:
        config = config_for(server)
        probe_sources(config, str(root / "sources"), paths, lambda _: None)
        score_clips(config, paths, lambda _: None)
        filter_clips(config, paths)
        deduplicate_clips(config, paths)
    assert len(read_clips(paths.deduplicated_clips)) == NUM_CLIPS
    return paths.root


@pytest.fixture
def paths(deduplicated: Path, tmp_path: Path) -> DatasetPaths:
    return DatasetPaths(Path(shutil.copytree(deduplicated, tmp_path / "dataset")))


def test_what_is_said_of_captions_asks_no_captioner_again(
    paths: DatasetPaths, server: ChatServer
) -> None:
    config = config_for(server)
    first = captioned(config, paths)
    assert asked_by(server) == [config.captions.prompt] * NUM_CLIPS
    assert {c.captions[0].text for c in first} == {CAPTION}

    endpoint = config.captions.endpoint.model_copy(update={"temperature": 0.0})
    asking = HallucinationConfig(backend="endpoint", num_frames=1, endpoint=endpoint)
    checked = captioned(config.model_copy(update={"hallucination": asking}), paths)
    prompts = asked_by(server)
    assert len(prompts) == 2 * NUM_CLIPS
    assert config.captions.prompt not in prompts
    assert all(dsg_counts(clip.scores) is not None for clip in checked)

    none = config.captions.categories.model_copy(update={"names": ()})
    captions = config.captions.model_copy(update={"categories": none})
    bare = captioned(config.model_copy(update={"captions": captions}), paths)
    assert {clip.category for clip in bare} == {None}

    # As for another backend of the similarity: what was said is gone, the captions are there.
    shutil.rmtree(paths.judgements)
    assert captioned(config, paths) == first
    assert asked_by(server) == []


def test_another_captioner_is_asked_alone(paths: DatasetPaths, server: ChatServer) -> None:
    config = config_for(server)
    captioned(config, paths)
    asked_by(server)

    names = ("frames_then_merge", "template", "endpoint")
    captions = config.captions.model_copy(update={"captioners": names})
    clips = captioned(config.model_copy(update={"captions": captions}), paths)
    assert [caption.source for caption in clips[0].captions] == list(names)
    prompts = asked_by(server)
    assert config.captions.prompt not in prompts
    assert sum(prompt.startswith(captions.merge_prompt) for prompt in prompts) == NUM_CLIPS

    warmer = config_for(server, temperature=0.9)
    captioned(warmer, paths)
    assert asked_by(server) == [config.captions.prompt] * NUM_CLIPS
    captioned(config, paths)
    assert asked_by(server) == []


def test_every_captioner_is_judged_and_none_twice(paths: DatasetPaths, server: ChatServer) -> None:
    config = config_for(server)
    judge = config.captions.endpoint.model_copy(update={"temperature": 0.0})
    asking = HallucinationConfig(backend="endpoint", num_frames=1, endpoint=judge)
    config = config.model_copy(update={"hallucination": asking})
    captioned(config, paths)
    asked_by(server)

    captions = config.captions.model_copy(update={"captioners": ("endpoint", "template")})
    both = config.model_copy(update={"captions": captions})
    clips = captioned(both, paths)
    # Each caption of the template is asked questions about, and those of the endpoint no more.
    prompts = asked_by(server)
    assert sum("JSON list" in prompt for prompt in prompts) == NUM_CLIPS
    rows = hallucination(clips, list(read_descriptions(both, paths, clips)))
    assert [(row.source, row.num_clips) for row in rows] == [
        ("endpoint", NUM_CLIPS),
        ("template", NUM_CLIPS),
    ]


def test_a_model_that_moved_is_the_same(paths: DatasetPaths, server: ChatServer) -> None:
    captioned(config_for(server), paths)
    written_ns = paths.captioned_clips.stat().st_mtime_ns
    with running_chat_server() as elsewhere:
        moved = config_for(elsewhere, timeout_s=5.0, max_concurrency=1)
        captioned(moved, paths)
        assert asked_by(elsewhere) == []
    assert paths.captioned_clips.stat().st_mtime_ns == written_ns


def test_a_server_that_is_down_for_a_while_costs_no_caption(
    paths: DatasetPaths, server: ChatServer
) -> None:
    plain = config_for(server)
    judge = plain.captions.endpoint.model_copy(update={"temperature": 0.0})
    asking = HallucinationConfig(backend="endpoint", num_frames=1, endpoint=judge)
    config = plain.model_copy(update={"hallucination": asking})
    server.reply = lambda _: Reply(status=503)
    hasty = config.model_copy(update={"workers": WorkerConfig(max_unanswered=1)})
    with pytest.raises(JobError, match=r"1 pieces of work in a row got no answer, .*status 503"):
        captioned(hasty, paths)
    clips = captioned(config, paths)
    assert all(str(clip.error).startswith("no answer yet, run again: ") for clip in clips)

    server.reply = lambda asked: (
        reply(asked) if asked.prompt == config.captions.prompt else Reply(status=503)
    )
    clips = captioned(config, paths)
    assert all(str(clip.error).startswith("no answer yet, run again: ") for clip in clips)
    asked_by(server)

    server.reply = reply
    clips = captioned(config, paths)
    assert {clip.error for clip in clips} == {None}
    assert all(dsg_counts(clip.scores) is not None for clip in clips)
    assert config.captions.prompt not in asked_by(server)
    captioned(config, paths)
    assert asked_by(server) == []


def test_a_clip_of_which_no_frame_was_kept_has_no_caption_and_stops_nothing(
    paths: DatasetPaths, server: ChatServer
) -> None:
    bare = read_clips(paths.deduplicated_clips)[0]
    frames = pq.read_table(paths.frames(bare.source_id))
    left = [row for row in frames.to_pylist() if row["clip_id"] != bare.clip_id]
    pq.write_table(pa.Table.from_pylist(left, frames.schema), paths.frames(bare.source_id))
    clips = {clip.clip_id: clip for clip in captioned(config_for(server), paths)}
    assert "no picture of it was kept" in str(clips.pop(bare.clip_id).error)
    assert {clip.error for clip in clips.values()} == {None}


_CAPTION_CLIPS = """
import sys
from pathlib import Path
from data_engine.config import DataEngineConfig
from data_engine.tables import DatasetPaths
from orchestration.ray_session import ray_session
config = DataEngineConfig.model_validate_json(sys.argv[1])
with ray_session():
    from data_engine.pipeline import caption_clips
    caption_clips(config, DatasetPaths(Path(sys.argv[2])), lambda progress: None)
"""


def test_killed_between_captions_and_judgements_it_asks_for_no_caption_twice(
    paths: DatasetPaths, server: ChatServer
) -> None:
    plain = config_for(server)
    judge = plain.captions.endpoint.model_copy(update={"temperature": 0.0})
    asking = HallucinationConfig(backend="endpoint", num_frames=1, endpoint=judge)
    config = plain.model_copy(update={"hallucination": asking})
    undisturbed = DatasetPaths(Path(shutil.copytree(paths.root, paths.root.with_name("whole"))))
    expected = captioned(config, undisturbed)
    asked_by(server)

    server.reply = lambda asked: (
        reply(asked) if asked.prompt == config.captions.prompt else Reply(delay_s=20)
    )
    command = [sys.executable, "-c", _CAPTION_CLIPS, config.model_dump_json(), str(paths.root)]
    process = subprocess.Popen(command)
    deadline_s = time.monotonic() + 300
    while all(asked.prompt == config.captions.prompt for asked in list(server.asked)):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline_s, "it never came so far"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert asked_by(server)[:NUM_CLIPS] == [config.captions.prompt] * NUM_CLIPS
    assert not paths.captioned_clips.exists()

    server.reply = reply
    assert captioned(config, paths) == expected
    prompts = asked_by(server)
    assert prompts
    assert config.captions.prompt not in prompts
    assert paths.captioned_clips.read_bytes() == undisturbed.captioned_clips.read_bytes()
