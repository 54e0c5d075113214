import io
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from data_engine.config import DecodeConfig, ProbeConfig, ShardConfig, ShotConfig
from data_engine.container import open_video
from data_engine.cutting import encode_clip
from data_engine.decode import cut_source
from data_engine.errors import SourceError, UnreadableSourceError
from data_engine.probe import probe
from data_engine.sources.listing import list_sources, local_source
from data_engine.sources.storage import SourceReader, content_id, open_bytes, tar_member
from tests.videos import frames_of, moving_texture, write_video


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    shots = [(moving_texture(1), 36), (moving_texture(2), 48)]
    folder = tmp_path_factory.mktemp("film")
    return write_video(folder / "film.mp4", frames_of(shots), fps=24).read_bytes()


def test_videos_of_tars_come_with_their_texts(tmp_path: Path) -> None:
    long_name = "x" * 150 + ".mp4"
    write_tar(
        tmp_path / "t" / "a.tar",
        [
            ("./one.v2.mp4", b"1"),
            ("./one.v2.txt", "Ein Häschen.\n".encode()),
            ("./one.v2.json", b'{"caption": "B", "attribution": "Jane", "year": 2008}'),
            ("README.md", b"no video"),
            (long_name, b"2"),
        ],
    )
    write_tar(tmp_path / "t" / "sub" / "b.tar", [("Фильм.webm", b"3")])
    (tmp_path / "t" / "plain.mp4").write_bytes(b"4")
    files = {file.uri: file for file in list_sources(str(tmp_path / "t")).files}
    assert set(files) == {
        "a.tar/one.v2.mp4",
        f"a.tar/{long_name}",
        "sub/b.tar/Фильм.webm",
        "plain.mp4",
    }
    first = files["a.tar/one.v2.mp4"]
    assert first.captions == ("Ein Häschen.", "B")
    assert (first.attribution, first.metadata) == ("Jane", {"year": "2008"})
    with open_bytes(files["sub/b.tar/Фильм.webm"].location) as reader:
        assert reader.read() == b"3"
    assert len(list_sources(str(tmp_path / "t" / "*.tar")).files) == 2
    assert len(list_sources(str(tmp_path / "t" / "a.tar")).files) == 2


def test_a_video_in_a_tar_gives_the_clips_of_the_same_video_as_a_file(
    tmp_path: Path, film: bytes
) -> None:
    write_tar(tmp_path / "a.tar", [("pad.txt", b"x" * 777), ("film.mp4", film)])
    (tmp_path / "film.mp4").write_bytes(film)
    (inside,) = list_sources(str(tmp_path / "a.tar")).files
    sources = [probe(f, ProbeConfig()) for f in (inside, local_source(tmp_path / "film.mp4"))]
    assert sources[0].source_id == sources[1].source_id
    cuts = [cut_source(s, ShotConfig(), DecodeConfig(), num_threads=1).clips for s in sources]
    assert [c.clip_id for c in cuts[0]] == [c.clip_id for c in cuts[1]]
    config = ShardConfig(short_side_px=90)
    encoded = [encode_clip(c[1], s.location, config) for s, c in zip(sources, cuts, strict=True)]
    assert encoded[0] == encoded[1]


def test_a_tar_that_breaks_off_gives_what_comes_before(tmp_path: Path, film: bytes) -> None:
    tar = write_tar(tmp_path / "a.tar", [("a.mp4", film), ("b.mp4", film), ("c.mp4", film)])
    tar.write_bytes(tar.read_bytes()[: 2 * len(film)])
    (tmp_path / "noise.tar").write_bytes(b"no tar" * 1000)
    listing = list_sources(str(tmp_path))
    assert [file.uri for file in listing.files] == ["a.tar/a.mp4", "a.tar/b.mp4"]
    reasons = {row.uri: row.reason for row in listing.unusable}
    assert reasons == {"a.tar": "unreadable_tar", "noise.tar": "unreadable_tar"}
    whole, cut_off = listing.files
    assert probe(whole, ProbeConfig()).duration_s == pytest.approx(3.5)
    with pytest.raises(UnreadableSourceError, match="truncated"):
        probe(cut_off, ProbeConfig())


def test_members_that_are_no_plain_file_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"secret")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for kind, name in ((tarfile.SYMTYPE, "s.mp4"), (tarfile.LNKTYPE, "l.mp4")):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, str(secret)
            tar.addfile(header)
    with pytest.raises(SourceError, match="holds no videos"):
        list_sources(str(tmp_path / "a.tar"))


def test_bad_members_are_quarantined(tmp_path: Path) -> None:
    members = [
        ("a.mp4", b"1"),
        ("a.json", b"{"),
        ("b.json", b"[1]"),
        ("c.txt", b"\xff\xfe"),
        ("d.txt", b"x" * (2**20 + 1)),
        ("a.mp4", b"2"),
    ]
    listing = list_sources(str(write_tar(tmp_path / "a.tar", members)))
    assert [file.uri for file in listing.files] == ["a.tar/a.mp4"]
    assert [(row.uri, row.reason) for row in listing.unusable] == [
        ("a.tar/a.json", "bad_sidecar"),
        ("a.tar/a.mp4 (another)", "ambiguous_name"),
        ("a.tar/b.json", "bad_sidecar"),
        ("a.tar/c.txt", "bad_sidecar"),
        ("a.tar/d.txt", "bad_sidecar"),
    ]


def test_a_large_member_is_never_held_in_memory(tmp_path: Path, film: bytes) -> None:
    tar = tmp_path / "a.tar"
    with tar.open("wb") as file:
        for name, size in (("zeros.mp4", 200 * 2**20), ("film.mp4", len(film))):
            header = tarfile.TarInfo(name)
            header.size = size
            file.write(header.tobuf())
            file.write(film if size == len(film) else b"")
            file.seek(size % 512 and 512 - size % 512, os.SEEK_CUR)
            file.seek(0 if size == len(film) else size, os.SEEK_CUR)
        file.truncate(file.tell() + 1024)
    tracemalloc.start()
    zeros, whole = sorted(list_sources(str(tar)).files, key=lambda file: -file.size_bytes)
    content_id(zeros.location)
    assert probe(whole, ProbeConfig()).codec == "h264"
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 16 * 2**20


class _Failing(io.BytesIO):
    """A file whose second half lies on a broken disk."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > len(self.getbuffer()) // 2:
            raise OSError(5, "Input/output error")
        return super().read(size)


def test_a_failed_read_is_an_error_and_not_the_end_of_the_film(
    film: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tar = write_tar(tmp_path / "a.tar", [("a.mp4", film)])
    (file,) = list_sources(str(tar)).files
    source = probe(file, ProbeConfig())

    def open_failing(location: str) -> _Failing:
        return _Failing(Path(location).read_bytes())

    monkeypatch.setattr("data_engine.sources.storage._open", open_failing)
    with pytest.raises(UnreadableSourceError, match="unreachable: Input/output error"):
        cut_source(source, ShotConfig(), DecodeConfig(), num_threads=1)


def test_a_reader_behaves_like_a_file(tmp_path: Path) -> None:
    reader = SourceReader(io.BytesIO(b"0123456789"), start=2, size_bytes=5)
    assert reader.read(3) == b"234"
    assert (reader.seek(-2, io.SEEK_END), reader.read()) == (3, b"56")
    assert (reader.seek(1), reader.seek(1, io.SEEK_CUR), reader.read(1)) == (1, 2, b"4")
    assert (reader.seek(99), reader.read(1)) == (99, b"")


def test_a_tar_that_became_shorter_is_said(tmp_path: Path, film: bytes) -> None:
    tar = write_tar(tmp_path / "a.tar", [("a.mp4", film)])
    location = tar_member(str(tar), 512, len(film))
    with open_video(location) as (_, stream):
        assert stream.width == 320
    tar.write_bytes(tar.read_bytes()[:1000])
    with pytest.raises(UnreadableSourceError, match="truncated"), open_video(location):
        pass
