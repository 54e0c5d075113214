"""From a tar back to a second of a source file."""

from pathlib import Path

import pytest

from data_engine.clip_pages import page_of, write_clip_pages
from data_engine.errors import TableError
from data_engine.lineage import lineage
from data_engine.schema import (
    MANIFEST_NAME,
    Rejection,
    ShardEntry,
    ShardManifest,
    ShardMember,
    ShardSample,
    SourceVideo,
)
from data_engine.tables import SOURCES, DatasetPaths, rows_of, write_clips, write_table, write_text
from tests.factories import clip_record

FILM = SourceVideo(
    source_id="0123456789abcdef",
    uri="film.mp4",
    location="/videos/film.mp4",
    size_bytes=1000,
    codec="h264",
    height_px=360,
    width_px=640,
    rotation_deg=0,
    fps=24.0,
    duration_s=60.0,
)
KEPT = clip_record(clip_id="a1" + "0" * 18, start_s=3.5, end_s=7.5)
REJECTED = clip_record(
    clip_id="a2" + "0" * 18, start_s=8.0, end_s=9.0, rejected_by=Rejection.TOO_SHORT
)


@pytest.fixture
def paths(tmp_path: Path) -> DatasetPaths:
    paths = DatasetPaths(tmp_path)
    paths.shards.mkdir()
    write_table(paths.sources, rows_of([FILM]), SOURCES, "test")
    write_clips(paths.filtered_clips, [KEPT, REJECTED], "test")
    sample = ShardSample(
        clip_id=KEPT.clip_id, members={"mp4": ShardMember(offset=512, size_bytes=9)}
    )
    entry = ShardEntry(
        name="a.tar", bucket="16x9", sha256="0" * 64, size_bytes=2048, samples=(sample,)
    )
    write_text(paths.shards / MANIFEST_NAME, ShardManifest(shards=(entry,), config={}).to_json())
    return paths


def test_a_kept_clip_leads_to_its_source_and_to_its_shard(paths: DatasetPaths) -> None:
    found = lineage(paths, "a1")
    assert (found.source, found.clip) == (FILM, KEPT)
    assert (found.shard, found.members["mp4"].offset) == ("a.tar", 512)


def test_a_rejected_clip_is_in_no_shard(paths: DatasetPaths) -> None:
    found = lineage(paths, REJECTED.clip_id)
    assert (found.shard, found.members) == (None, {})
    assert found.clip.rejected_by is Rejection.TOO_SHORT


@pytest.mark.parametrize(("clip_id", "said"), [("a", "2 clips"), ("b", "no clip")])
def test_an_id_of_none_or_of_several_is_refused(
    paths: DatasetPaths, clip_id: str, said: str
) -> None:
    with pytest.raises(TableError, match=f"{said} whose id begins with '{clip_id}'"):
        lineage(paths, clip_id)


def test_every_clip_has_a_place_on_a_page(paths: DatasetPaths) -> None:
    assert write_clip_pages(paths) == 2
    name, _, place = page_of(KEPT.clip_id).partition("#")
    page = (paths.clip_pages / name).read_text()
    assert f'id="{place}"' in page
    assert "from 3.500 s to 7.500 s of film.mp4" in page
    assert "in shards/a.tar: .mp4, 9 bytes at 512" in page
    other = (paths.clip_pages / page_of(REJECTED.clip_id).partition("#")[0]).read_text()
    assert "rejected: too_short" in other
    assert FILM.location not in page + other
    assert 'href="a1.html"' in (paths.clip_pages / "index.html").read_text()


def test_pages_of_clips_that_are_gone_go(paths: DatasetPaths) -> None:
    write_clip_pages(paths)
    write_clips(paths.filtered_clips, [KEPT], "test")
    write_clip_pages(paths)
    assert {p.name for p in paths.clip_pages.iterdir()} == {"index.html", "a1.html"}
