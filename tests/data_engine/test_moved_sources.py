"""Where the sources lie leaves no trace: the same files give the same records and the same shards."""

from pathlib import Path

import pytest

from data_engine.config import DecodeConfig, ProbeConfig, ShardConfig, ShotConfig
from data_engine.cutting import encode_clip
from data_engine.decode import cut_source
from data_engine.probe import merge_copies, probe
from data_engine.schema import ClipRecord
from data_engine.shard_writer import EncodedClip, write_shard
from data_engine.sources.listing import list_sources
from tests.videos import frames_of, moving_texture, write_video

pytestmark = pytest.mark.slow

SHARDS = ShardConfig(short_side_px=90)


def curate(source: str, out: Path) -> tuple[list[ClipRecord], bytes]:
    """Probe, cut, encode and pack, as the steps of the pipeline do."""
    probed = merge_copies(probe(file, ProbeConfig()) for file in list_sources(source).files)
    clips = [
        (clip, video.location)
        for video in probed
        for clip in cut_source(video, ShotConfig(), DecodeConfig(), num_threads=1).clips
    ]
    out.mkdir()
    encoded: list[EncodedClip] = []
    for clip, location in clips:
        mp4 = encode_clip(clip, location, SHARDS)
        path = out / f"{clip.clip_id}.mp4"
        path.write_bytes(mp4)
        encoded.append(EncodedClip(clip, path, len(mp4)))
    tar = out / "shard-000000.tar"
    write_shard(tar, "wide", encoded)
    return [clip for clip, _ in clips], tar.read_bytes()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    shots = [(moving_texture(1), 36), (moving_texture(2), 48)]
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return write_video(path, frames_of(shots), fps=24).read_bytes()


@pytest.mark.parametrize(
    ("named", "uri"),
    [
        ("", "in/film.mp4"),
        ("*/*.mp4", "in/film.mp4"),
        ("list.csv", "in/film.mp4"),
        ("in", "film.mp4"),
    ],
)
def test_the_same_file_in_two_folders_gives_the_same_records_and_shards(
    tmp_path: Path, film: bytes, named: str, uri: str
) -> None:
    homes = [tmp_path / "home" / "ann", tmp_path / "mnt" / "a disk" / "Videos von Bob"]
    for home in homes:
        (home / "in").mkdir(parents=True)
        (home / "in" / "film.mp4").write_bytes(film)
        (home / "in" / "attributions.json").write_text('{"film.mp4": "Jane"}')
        (home / "list.csv").write_text("uri,caption\nin/film.mp4,A cat.\n")
    first, second = (curate(str(home / named), home / "out") for home in homes)
    assert first == second
    records, shard = first
    assert [record.source_uri for record in records] == [uri, uri]
    assert str(tmp_path).encode() not in shard
