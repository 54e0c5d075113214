"""A curation ends the same if its processes are killed with SIGKILL, and on however many nodes it runs."""

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
from data_engine.caption_config import CategoryConfig
from data_engine.config import (
    CaptionConfig, DataEngineConfig, DecodeConfig, DuplicateConfig, FilterConfig, ScoreConfig, ShardConfig
)
from orchestration.ray_session import ray_session
with ray_session():
    from data_engine.pipeline import curate
    config = DataEngineConfig(
        decode=DecodeConfig(part_s=float(sys.argv[3]) if len(sys.argv) > 3 else None),
        scores=ScoreConfig(frame_scorers=("quality",)),
        captions=CaptionConfig(categories=CategoryConfig(names=())),
        filters=FilterConfig(max_brisque=None, max_text_area=None),
        duplicates=DuplicateConfig(max_similarity=None),
        shards=ShardConfig(short_side_px=90, max_clips=3, copy_streams=False),
    )
    curate(config, sys.argv[1], Path(sys.argv[2]), lambda progress: None)
"""

_ON_TWO_NODES = """
import ray
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)
assert [node["Resources"]["CPU"] for node in ray.nodes()] == [1.0, 1.0]
"""


def start(sources: Path, dataset: Path, *part_s: str, before: str = "") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", before + _CURATE, str(sources), str(dataset), *part_s]
    return subprocess.Popen(command)


def kill_when(whom: Callable[[], list[int]], process: subprocess.Popen[bytes]) -> None:
    """Kill the processes that `whom` names as soon as it names any."""
    deadline_s = time.monotonic() + 300
    while not (pids := whom()):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline_s, "it never came so far"
        time.sleep(0.002)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def kill_once_made(process: subprocess.Popen[bytes], dataset: Path, made: str) -> None:
    """Kill a run as soon as its data set holds such a file."""
    kill_when(lambda: [process.pid] if any(dataset.glob(made)) else [], process)
    process.wait()


def kept(dataset: Path) -> tuple[list[str], dict[str, bytes]]:
    """What a data set holds: the records of its clips, and the bytes of its shards and their manifest."""
    paths = DatasetPaths(dataset)
    shards = {file.name: file.read_bytes() for file in paths.shards.iterdir()}
    return sorted(clip.to_json() for clip in load_clips(paths)), shards


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


def test_killed_in_every_step_it_goes_on_and_ends_the_same(
    sources: Path, whole: Path, tmp_path: Path
) -> None:
    paths = DatasetPaths(tmp_path)
    steps = [
        (paths.scored_clips, "scores/*.parquet"),
        (paths.captioned_clips, "captions/*.parquet"),
        (paths.sharded_clips, "encoded/*/*.mp4"),
        (paths.sharded_clips, "shards/*.tar"),
    ]
    before: dict[Path, int] = {}
    for table, made in steps:
        process = start(sources, tmp_path)
        kill_once_made(process, tmp_path, made)
        assert not table.exists(), "it was killed too late"
        # As if the disk had been slower.
        for folder in tmp_path.glob(made.rpartition("/")[0]):
            (folder / f".{table.name}.abcd_123").touch()
        times_ns = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cuts/*.parquet")}
        assert before in ({}, times_ns)
        before = times_ns
    assert start(sources, tmp_path).wait() == 0

    assert kept(tmp_path) == kept(whole)
    assert [path for path in tmp_path.rglob(".*") if path != paths.lock] == []


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


def test_two_nodes_make_the_bytes_that_one_process_makes(
    sources: Path, whole: Path, tmp_path: Path
) -> None:
    assert start(sources, tmp_path, before=_ON_TWO_NODES).wait() == 0
    assert kept(tmp_path) == kept(whole)
