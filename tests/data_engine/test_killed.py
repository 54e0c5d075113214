"""A curation whose process is killed with SIGKILL, and run again, ends as one that never was."""

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
from data_engine.config import CaptionConfig, DataEngineConfig, DuplicateConfig, FilterConfig, ScoreConfig, ShardConfig
from orchestration.ray_session import ray_session
with ray_session():
    from data_engine.pipeline import curate
    config = DataEngineConfig(
        scores=ScoreConfig(frame_scorers=()),
        captions=CaptionConfig(captioners=()),
        filters=FilterConfig(max_brisque=None, max_text_area=None),
        duplicates=DuplicateConfig(max_similarity=None),
        shards=ShardConfig(short_side_px=90, max_clips=3),
    )
    curate(config, sys.argv[1], Path(sys.argv[2]), lambda progress: None)
"""


def start(sources: Path, dataset: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _CURATE, str(sources), str(dataset)])


def kill_when(is_time: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + 300
    while not is_time():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline_s, "it never came so far"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def kept(dataset: Path) -> tuple[list[str], dict[str, bytes]]:
    """What a data set holds: the records of its clips, and the bytes of its tars."""
    paths = DatasetPaths(dataset)
    tars = {tar.name: tar.read_bytes() for tar in paths.shards.glob("*.tar")}
    return sorted(clip.to_json() for clip in load_clips(paths)), tars


def test_killed_while_it_encodes_it_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    for i in range(3):
        film = [(moving_texture(10 * i + shot), 60) for shot in range(3)]
        write_video(sources / f"{i}.mp4", frames_of(film), fps=24)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(sources, whole).wait() == 0

    paths = DatasetPaths(killed)
    cut = (killed / "cuts").glob
    encoded = (killed / "encoded").rglob
    kill_when(lambda: any(encoded("*.mp4")), start(sources, killed))
    assert not paths.sharded_clips.exists()
    before = {path: path.stat().st_mtime_ns for path in cut("*.parquet")}
    assert start(sources, killed).wait() == 0

    assert kept(killed) == kept(whole)
    assert {path: path.stat().st_mtime_ns for path in cut("*.parquet")} == before
