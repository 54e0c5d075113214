"""A file that was probed once is not read again, whatever comes beside it and whenever the job dies."""

import os
from pathlib import Path

import pytest

from data_engine.config import DataEngineConfig, ProbeConfig
from data_engine.pipeline import probe_sources
from data_engine.ray_rows import Progress
from data_engine.tables import DatasetPaths, read_sources, read_table
from tests.videos import frames_of, moving_texture, write_video

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.usefixtures("local_ray"),
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two films, and one that is none."""
    folder = tmp_path / "films"
    folder.mkdir()
    for name, seed in (("a.mp4", 1), ("b.mp4", 2)):
        write_video(folder / name, frames_of([(moving_texture(seed), 12)]))
    (folder / "broken.mp4").write_bytes(b"no film")
    return folder


def probed_now(folder: Path, paths: DatasetPaths, config: DataEngineConfig | None = None) -> int:
    """Of how many files the bytes were read."""
    events: list[Progress] = []
    probe_sources(config or DataEngineConfig(), str(folder), paths, events.append)
    return len(events)


def spoil(path: Path) -> None:
    """Other bytes, of which the listing of the folder tells nothing."""
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_film_that_comes_later_is_the_only_one_read(tmp_path: Path, folder: Path) -> None:
    paths = DatasetPaths(tmp_path / "set")
    assert probed_now(folder, paths) == 3
    first, quarantine = read_sources(paths.sources), read_table(paths.quarantine)
    assert [source.uri for source in first] == ["a.mp4", "b.mp4"]
    spoil(folder / "a.mp4")
    write_video(folder / "c.mp4", frames_of([(moving_texture(3), 12)]))
    assert probed_now(folder, paths) == 1
    assert read_sources(paths.sources)[:2] == first
    assert [source.uri for source in read_sources(paths.sources)][2:] == ["c.mp4"]
    assert read_table(paths.quarantine) == quarantine
    assert len(list(paths.probed.glob("*.parquet"))) == 1


def test_a_job_that_died_before_its_end_reads_only_what_is_left(
    tmp_path: Path, folder: Path
) -> None:
    paths = DatasetPaths(tmp_path / "set")
    probed_now(folder, paths)
    whole = read_sources(paths.sources)
    paths.sources.unlink()
    spoil(folder / "b.mp4")
    assert probed_now(folder, paths) == 0
    assert read_sources(paths.sources) == whole


def test_a_changed_file_or_limit_is_probed_again(tmp_path: Path, folder: Path) -> None:
    paths = DatasetPaths(tmp_path / "set")
    probed_now(folder, paths)
    os.utime(folder / "a.mp4", ns=(0, 0))
    assert probed_now(folder, paths) == 1
    strict = DataEngineConfig(probe=ProbeConfig(max_duration_s=0.1))
    assert probed_now(folder, paths, strict) == 3
    assert read_sources(paths.sources) == []
    assert {row["reason"] for row in read_table(paths.quarantine)} >= {"too_long"}
