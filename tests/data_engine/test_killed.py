"""A curation whose processes are killed with SIGKILL ends as one that nobody disturbed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_engine.tables import DatasetPaths, load_clips
from tests.videos import frames_of, moving_texture, write_video

pytestmark = [pytest.mark.ray, pytest.mark.slow]

_CURATE = """
import sys
from pathlib import Path
from data_engine.config import (
    CaptionConfig, DataEngineConfig, DecodeConfig, DuplicateConfig, FilterConfig, ScoreConfig, ShardConfig
)
from orchestration.ray_session import ray_session
with ray_session():
    from data_engine.pipeline import curate
    config = DataEngineConfig(
        decode=DecodeConfig(part_s=float(sys.argv[3]) if len(sys.argv) > 3 else None),
        scores=ScoreConfig(frame_scorers=()),
        captions=CaptionConfig(captioners=()),
        filters=FilterConfig(max_brisque=None, max_text_area=None),
        duplicates=DuplicateConfig(max_similarity=None),
        shards=ShardConfig(short_side_px=90, max_clips=3, copy_streams=False),
    )
    curate(config, sys.argv[1], Path(sys.argv[2]), lambda progress: None)
"""


def start(sources: Path, dataset: Path, *part_s: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _CURATE, str(sources), str(dataset), *part_s])


def kill_when(whom: Callable[[], list[int]], process: subprocess.Popen[bytes]) -> None:
    """Kill the processes that `whom` names as soon as it names any."""
    deadline_s = time.monotonic() + 300
    while not (pids := whom()):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline_s, "it never came so far"
        time.sleep(0.01)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def kept(dataset: Path) -> tuple[list[str], dict[str, bytes]]:
    """What a data set holds: the records of its clips, and the bytes of its tars."""
    paths = DatasetPaths(dataset)
    tars = {tar.name: tar.read_bytes() for tar in paths.shards.glob("*.tar")}
    return sorted(clip.to_json() for clip in load_clips(paths)), tars


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes below this one that Ray gave a row of a step."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat, title = (entry / "stat").read_text(), (entry / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
        titles[int(entry.name)] = title
    inside = {process.pid}
    while more := {pid for pid, parent in parents.items() if parent in inside} - inside:
        inside |= more
    return [pid for pid in inside if titles.get(pid, "").startswith("ray::Map")]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for i in range(3):
        film = [(moving_texture(10 * i + shot), 60) for shot in range(3)]
        write_video(folder / f"{i}.mp4", frames_of(film), fps=24)
    return folder


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One source of 40 s, in a folder."""
    folder = tmp_path_factory.mktemp("film")
    shots = [(moving_texture(shot), 96) for shot in range(10)]
    write_video(folder / "film.mp4", frames_of(shots), fps=24, options={"g": "24"})
    return folder


@pytest.fixture(scope="module")
def whole(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of a curation that nobody disturbed."""
    dataset = tmp_path_factory.mktemp("whole")
    assert start(sources, dataset).wait() == 0
    return dataset


def test_killed_while_it_encodes_it_goes_on_and_ends_the_same(
    sources: Path, whole: Path, tmp_path: Path
) -> None:
    paths = DatasetPaths(tmp_path)
    cut = (tmp_path / "cuts").glob
    encoded = (tmp_path / "encoded").rglob
    process = start(sources, tmp_path)
    kill_when(lambda: [process.pid] if any(encoded("*.mp4")) else [], process)
    process.wait()
    assert not paths.sharded_clips.exists()
    before = {path: path.stat().st_mtime_ns for path in cut("*.parquet")}
    assert start(sources, tmp_path).wait() == 0

    assert kept(tmp_path) == kept(whole)
    assert {path: path.stat().st_mtime_ns for path in cut("*.parquet")} == before


def test_a_worker_that_is_killed_costs_nothing(sources: Path, whole: Path, tmp_path: Path) -> None:
    paths = DatasetPaths(tmp_path)
    process = start(sources, tmp_path)

    # Once the sources are known, they decode.
    kill_when(lambda: workers_of(process) if paths.sources.exists() else [], process)
    assert process.wait() == 0
    assert kept(tmp_path) == kept(whole)


def test_killed_between_the_parts_of_a_film_it_goes_on_and_ends_the_same(
    film: Path, tmp_path: Path
) -> None:
    assert start(film, tmp_path / "whole").wait() == 0
    divided = tmp_path / "divided"

    def parts() -> list[Path]:
        return sorted((divided / "parts").glob("*/*/[0-9]*"))

    process = start(film, divided, "5")
    kill_when(lambda: [process.pid] if parts() else [], process)
    process.wait()
    assert not DatasetPaths(divided).scored_clips.exists()
    survived = parts()
    assert 0 < len(survived) < 8, "it was killed too early or too late"
    assert start(film, divided, "5").wait() == 0
    assert kept(divided) == kept(tmp_path / "whole")
    assert not parts()
