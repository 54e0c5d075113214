"""Sources in a bucket, read from a real S3 server on this machine."""

import io
import tarfile
from collections.abc import Generator
from pathlib import Path

import pytest

from data_engine.config import DecodeConfig, ProbeConfig, ShardConfig, ShotConfig
from data_engine.cutting import encode_clip
from data_engine.decode import cut_source
from data_engine.errors import SourceError, UnreadableSourceError
from data_engine.probe import probe
from data_engine.sources import SourceFile
from data_engine.sources.listing import list_sources, local_source
from data_engine.sources.storage import filesystem
from tests.buckets import s3_bucket
from tests.videos import frames_of, moving_texture, write_video

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

MEMBER = "clips/Фильм 1.v2.mp4"


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shots = [(moving_texture(1), 36), (moving_texture(2), 48)]
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", frames_of(shots), fps=24)


@pytest.fixture(scope="module")
def bucket(film: Path) -> Generator[str]:
    """A bucket with a film, a copy, a tar, a manifest and something that is no video."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, data in ((MEMBER, film.read_bytes()), ("clips/Фильм 1.v2.txt", b"A cat.")):
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    rows = "uri,caption\nin/film.mp4,One\ns3://stiv-test/in/копия 2.mp4,Two\nin/gone.mp4,Three\n"
    with s3_bucket("stiv-test") as files:
        files.pipe_file("stiv-test/in/film.mp4", film.read_bytes())
        files.pipe_file("stiv-test/in/копия 2.mp4", film.read_bytes())
        files.pipe_file("stiv-test/in/notes.mp4", b"no video" * 100)
        files.pipe_file("stiv-test/in/readme.txt", b"no video")
        files.pipe_file("stiv-test/tars/a.tar", tar.getvalue())
        files.pipe_file("stiv-test/list.csv", rows.encode())
        yield "s3://stiv-test"


def test_a_bucket_is_listed_like_a_folder(bucket: str) -> None:
    listed = {file.uri: file for file in list_sources(f"{bucket}/in").files}
    assert set(listed) == {"film.mp4", "notes.mp4", "копия 2.mp4"}
    assert all(file.version for file in listed.values())
    assert [f.uri for f in list_sources(f"{bucket}/*/*.tar").files] == [f"tars/a.tar/{MEMBER}"]
    assert [f.uri for f in list_sources(f"{bucket}/in/film.mp4").files] == ["film.mp4"]
    assert f"tars/a.tar/{MEMBER}" in [f.uri for f in list_sources(bucket).files]


def test_a_manifest_in_a_bucket(bucket: str) -> None:
    listing = list_sources(f"{bucket}/list.csv")
    assert {file.uri: file.captions for file in listing.files} == {
        "in/film.mp4": ("One",),
        "s3://stiv-test/in/копия 2.mp4": ("Two",),
    }
    assert [(row.uri, row.reason) for row in listing.unusable] == [("in/gone.mp4", "missing")]


def curated(file: SourceFile) -> tuple[str, list[str], bytes]:
    """The ids of a source and of its clips, and the second clip at training size."""
    source = probe(file, ProbeConfig())
    clips = cut_source(source, ShotConfig(), DecodeConfig(), num_threads=1).clips
    mp4 = encode_clip(clips[1], source.location, ShardConfig(short_side_px=90))
    return source.source_id, [clip.clip_id for clip in clips], mp4


@pytest.fixture(scope="module")
def curated_from_disk(film: Path) -> tuple[str, list[str], bytes]:
    return curated(local_source(film))


@pytest.mark.parametrize("name", ["in/film.mp4", "in/копия 2.mp4", "tars/a.tar"])
def test_a_video_in_a_bucket_gives_the_clips_of_the_same_video_on_disk(
    bucket: str, curated_from_disk: tuple[str, list[str], bytes], name: str
) -> None:
    (remote,) = list_sources(f"{bucket}/{name}").files
    assert curated(remote) == curated_from_disk


def test_what_a_bucket_cannot_give_has_a_reason(bucket: str) -> None:
    notes = next(file for file in list_sources(f"{bucket}/in").files if "notes" in file.uri)
    with pytest.raises(UnreadableSourceError, match="not_a_video"):
        probe(notes, ProbeConfig())
    with pytest.raises(SourceError, match="holds no videos"):
        list_sources(f"{bucket}/nothing/*.mp4")


def test_an_object_that_goes_away_is_missing(bucket: str, film: Path) -> None:
    files, _ = filesystem(bucket)
    files.pipe_file("stiv-test/later/a.mp4", film.read_bytes())
    (source,) = list_sources(f"{bucket}/later").files
    files.rm_file("stiv-test/later/a.mp4")
    with pytest.raises(UnreadableSourceError, match="missing"):
        probe(source, ProbeConfig())


def test_a_bucket_that_cannot_be_reached_is_one_clear_line(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs  # pyright: ignore[reportMissingImports]  # an optional package

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(SourceError, match=r"unreachable: "):
        list_sources(f"{bucket}/in")
    s3fs.S3FileSystem.clear_instance_cache()
