"""A bucket or a server that does not answer for a while costs time and nothing else."""

import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_engine.config import DataEngineConfig, WorkerConfig
from data_engine.errors import JobError
from data_engine.sources.listing import list_sources
from data_engine.steps.work import Patience
from data_engine.workers import CutSource, EncodeClips, ProbeSource, Row
from tests.buckets import s3_bucket
from tests.videos import frames_of, moving_texture, write_video


class Gate(ThreadingHTTPServer):
    """Stands before an S3 server, and says 503 for the objects that are down."""

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Through)
        self.behind = behind
        self.down: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Through(BaseHTTPRequestHandler):
    def _pass(self) -> None:
        gate = self.server
        assert isinstance(gate, Gate)
        if self.path == "/all-is-well":
            gate.down = set()
            self.send_response(204)
            self.end_headers()
            return
        if any(name in self.path for name in gate.down) and "list-type" not in self.path:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked = urllib.request.Request(
            gate.behind + self.path, headers=dict(self.headers), method=self.command
        )
        try:
            answer = urllib.request.urlopen(asked)
        except urllib.error.HTTPError as error:
            answer = error
        data = answer.read()
        self.send_response(answer.status or 200)
        for name, value in answer.headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_HEAD = _pass

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Generator[Gate]:
    """A bucket `films` with two videos, behind a gate that this process and those below it find by the environment."""
    shots = [(moving_texture(seed), 36) for seed in (1, 2)]
    path = write_video(tmp_path_factory.mktemp("film") / "a.mp4", frames_of(shots))
    other = write_video(path.with_name("b.mp4"), frames_of(shots[::-1]))
    with s3_bucket("films") as files, pytest.MonkeyPatch.context() as patch:
        for film in (path, other):
            files.pipe_file(f"films/{film.name}", film.read_bytes())
        gate = Gate(os.environ["AWS_ENDPOINT_URL"])
        patch.setenv("AWS_ENDPOINT_URL", gate.url)
        import fsspec

        fsspec.get_filesystem_class("s3").clear_instance_cache()
        thread = threading.Thread(target=gate.serve_forever, daemon=True)
        thread.start()
        yield gate
        gate.shutdown()
        gate.server_close()
        thread.join()


def unanswered(row: Row) -> dict[str, str]:
    return json.loads(row["unanswered"])


@pytest.mark.slow
def test_a_source_out_of_reach_is_said_to_be_that_and_not_to_be_bad(
    gate: Gate, tmp_path: Path
) -> None:
    config = DataEngineConfig()
    file = list_sources("s3://films/a.mp4").files[0]
    asked = {"uri": file.uri, "file": file.to_json()}
    probed = ProbeSource(config)(asked)
    assert unanswered(probed) == {}
    source_id = json.loads(probed["source"])["source_id"]
    cut = CutSource(config, str(tmp_path), {source_id: "goal"}, lambda _key, _done: None, 1)
    row = {"key": "k", "source_id": source_id, "source": probed["source"], "part": -1}
    gate.down = {"a.mp4"}
    try:
        again = ProbeSource(config)(asked)
        assert again["reason"] == "unreachable"
        assert list(unanswered(again)) == [file.uri]
        done = cut(row)
        assert done["reason"] == "unreachable"
        assert list(unanswered(done)) == [source_id]
    finally:
        gate.down = set()
    assert unanswered(cut(row)) == {}
    from data_engine.tables import DatasetPaths, read_clips

    clips = read_clips(DatasetPaths(tmp_path).cuts(source_id))
    encode = EncodeClips(config, 1)
    files = [str(tmp_path / f"{clip.clip_id}.mp4") for clip in clips]
    batch = {
        "key": "k",
        "location": file.location,
        "records": [clip.to_json() for clip in clips],
        "files": files,
    }
    gate.down = {"a.mp4"}
    try:
        encoded = encode(batch)
    finally:
        gate.down = set()
    assert json.loads(encoded["failed"]) == {}
    assert set(unanswered(encoded)) == {clip.clip_id for clip in clips}
    assert unanswered(encode(batch)) == {}
    assert all(Path(path).exists() for path in files)


_PROBE_TWICE = """
import os, sys, urllib.request
from pathlib import Path
from data_engine.config import DataEngineConfig
from data_engine.tables import DatasetPaths, read_quarantine, read_sources
from orchestration.ray_session import ray_session
paths = DatasetPaths(Path(sys.argv[1]))
with ray_session():
    from data_engine.pipeline import probe_sources
    for _ in range(2):
        probe_sources(DataEngineConfig(), "s3://films", paths, lambda progress: None)
        print([s.uri for s in read_sources(paths.sources)], [q.uri for q in read_quarantine(paths)])
        urllib.request.urlopen(os.environ["AWS_ENDPOINT_URL"] + "/all-is-well")
"""


@pytest.mark.ray
@pytest.mark.slow
def test_what_was_out_of_reach_is_tried_anew_by_the_next_run(gate: Gate, tmp_path: Path) -> None:
    gate.down = {"b.mp4"}
    command = [sys.executable, "-c", _PROBE_TWICE, str(tmp_path)]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()
    assert said.splitlines() == ["['a.mp4'] ['b.mp4']", "['a.mp4', 'b.mp4'] []"]


def test_a_job_does_not_ask_for_ever_what_does_not_answer() -> None:
    patience = Patience(WorkerConfig(max_unanswered=3))
    good, bad = {"unanswered": "{}"}, {"unanswered": '{"a.mp4": "unreachable: busy"}'}
    for row in (bad, bad, good, bad, bad):
        patience(row)
    with pytest.raises(JobError, match=r"3 pieces of work in a row .* unreachable: busy; look at"):
        patience(bad)
