from pathlib import Path

import pytest

from data_engine.config import ProbeConfig
from data_engine.errors import UnreadableSourceError
from data_engine.probe import probe
from data_engine.sources import SourceFile
from tests.videos import frames_of, moving_texture, write_video


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_video(tmp_path / "film.mp4", frames_of([(moving_texture(1), 30)]), fps=30)


def reason(path: Path, config: ProbeConfig | None = None) -> str:
    with pytest.raises(UnreadableSourceError) as raised:
        probe(SourceFile(path=path), config or ProbeConfig())
    return raised.value.reason


def test_facts_of_a_video(film: Path) -> None:
    found = probe(SourceFile(path=film, attribution="me"), ProbeConfig())
    assert (found.codec, found.height_px, found.width_px) == ("h264", 180, 320)
    assert (found.fps, found.duration_s, found.attribution) == (30.0, 1.0, "me")


def test_the_same_bytes_under_another_name_are_the_same_source(film: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy with spaces.v2.mp4"
    copy.write_bytes(film.read_bytes())
    config = ProbeConfig()
    ids = {probe(SourceFile(path=path), config).source_id for path in (film, copy)}
    assert len(ids) == 1


def test_what_is_no_video_has_a_reason(tmp_path: Path, film: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    assert reason(tmp_path / "empty.mp4") == "empty"
    (tmp_path / "notes.mp4").write_text("not a video" * 100)
    assert reason(tmp_path / "notes.mp4") == "not_a_video"
    (tmp_path / "half.mp4").write_bytes(film.read_bytes()[:2000])
    assert reason(tmp_path / "half.mp4") in {"not_a_video", "undecodable"}


def test_limits_are_reasons(film: Path) -> None:
    assert reason(film, ProbeConfig(max_duration_s=0.5)) == "too_long"
    assert reason(film, ProbeConfig(max_size_bytes=10)) == "too_large"
    assert reason(film, ProbeConfig(max_pixels=100)) == "too_large"


@pytest.mark.parametrize(
    "script",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{film}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{film}'\n",
        "#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".ffconcat"])
def test_a_media_file_cannot_name_another_file_or_address(
    tmp_path: Path, film: Path, script: str, suffix: str
) -> None:
    playlist = tmp_path / f"list{suffix}"
    playlist.write_text(script.format(film=film))
    assert reason(playlist) == "not_a_video"
