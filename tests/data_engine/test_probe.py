import io
import tarfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data_engine.config import ProbeConfig
from data_engine.errors import UnreadableSourceError
from data_engine.probe import merge_copies, probe
from data_engine.schema import SourceVideo
from data_engine.sources.listing import list_sources, local_source
from tests.videos import frames_of, moving_texture, write_video

Write = Callable[[str], Path]


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_video(tmp_path / "film.mp4", frames_of([(moving_texture(1), 30)]), fps=30)


@pytest.fixture
def long_film(tmp_path: Path) -> Write:
    """Ten seconds in the container that the suffix names."""
    return lambda suffix: write_video(
        tmp_path / f"long{suffix}", frames_of([(moving_texture(1, size=(90, 160)), 300)]), fps=30
    )


def facts(path: Path, config: ProbeConfig | None = None) -> SourceVideo:
    return probe(local_source(path), config or ProbeConfig())


def reason(path: Path, config: ProbeConfig | None = None) -> str:
    with pytest.raises(UnreadableSourceError) as raised:
        facts(path, config)
    return raised.value.reason


def write_marked(path: Path, *, transfer: int = 2, aspect: Fraction = Fraction(1)) -> Path:
    """A second of H.264 that says how its light and its pixels are meant, with a second of silence."""
    options = {"preset": "ultrafast", "x264-params": f"transfer={transfer}:sar={aspect}"}
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=24, options=options)
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        video.codec_context.color_trc = transfer
        video.codec_context.sample_aspect_ratio = aspect
        sound = container.add_stream("aac", rate=48_000)
        for i in range(24):
            image = moving_texture(1, size=(120, 160))(i)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            frame.color_trc = transfer
            frame.pts = i
            frame.time_base = Fraction(1, 24)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        silence = av.AudioFrame.from_ndarray(
            np.zeros((2, 48_000), np.float32), format="fltp", layout="stereo"
        )
        silence.sample_rate = 48_000
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    return path


def remuxed(source: Path, target: Path, **options: str) -> Path:
    with av.open(str(source)) as read, av.open(str(target), "w", options=options) as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(read.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                written.mux(packet)
    return target


def test_facts_of_a_video(film: Path) -> None:
    found = facts(film)
    assert (found.codec, found.height_px, found.width_px) == ("h264", 180, 320)
    assert (found.fps, found.duration_s) == (30.0, 1.0)
    assert (found.sample_aspect_ratio, found.rotation_deg) == (1.0, 0)
    assert (found.has_audio, found.colour_transfer, found.is_variable_rate) == (False, None, False)
    assert (found.uri, found.location) == ("film.mp4", str(film))


def test_sound_hdr_and_oblong_pixels_are_seen(tmp_path: Path) -> None:
    found = facts(write_marked(tmp_path / "hdr.mp4", transfer=16, aspect=Fraction(4, 3)))
    assert found.has_audio
    assert found.colour_transfer == "smpte2084"
    assert found.sample_aspect_ratio == pytest.approx(4 / 3)
    assert (found.height_px, found.width_px) == (120, 213)
    hlg = facts(write_marked(tmp_path / "hlg.mp4", transfer=18))
    assert hlg.colour_transfer == "arib-std-b67"


def test_a_rotated_video_has_its_display_size(tmp_path: Path) -> None:
    frames = frames_of([(moving_texture(1), 10)])
    found = facts(write_video(tmp_path / "a.mp4", frames, rotation_deg=90))
    assert (found.height_px, found.width_px, found.rotation_deg % 180) == (320, 180, 90)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".flv", ".mov"])
@pytest.mark.parametrize("fps", [24, 30, 60])
def test_rate_and_length_come_from_the_times_of_the_packets(
    tmp_path: Path, suffix: str, fps: int
) -> None:
    film = write_video(
        tmp_path / "a.mp4", frames_of([(moving_texture(1, size=(90, 160)), 400)]), fps=fps
    )
    found = facts(film if suffix == ".mp4" else remuxed(film, tmp_path / f"b{suffix}"))
    assert found.fps == pytest.approx(fps, rel=0.001)
    assert found.duration_s == pytest.approx(400 / fps, abs=0.02)
    assert not found.is_variable_rate


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_variable_rate_is_seen(tmp_path: Path, suffix: str) -> None:
    slow_then_fast = [i / 12 for i in range(24)] + [2 + i / 48 for i in range(96)]
    one_dropped = [i / 24 for i in range(240) if i != 120]
    for times_s in (slow_then_fast, one_dropped):
        frames = frames_of([(moving_texture(1, size=(90, 160)), len(times_s))])
        found = facts(write_video(tmp_path / f"a{suffix}", frames, times_s=times_s))
        assert found.is_variable_rate
        assert found.duration_s == pytest.approx(times_s[-1], abs=0.1)
        assert found.fps == pytest.approx(len(times_s) / times_s[-1], rel=0.02)


def test_a_length_that_the_container_does_not_say_is_that_of_its_packets(tmp_path: Path) -> None:
    frames = frames_of([(moving_texture(1, size=(90, 160)), 100)])
    film = write_video(tmp_path / "a.mp4", frames, fps=25)
    live = remuxed(film, tmp_path / "live.mkv", live="1")
    with av.open(str(live)) as container:
        assert container.duration is None
    assert facts(live).duration_s == pytest.approx(4.0, abs=0.02)
    fragmented = remuxed(film, tmp_path / "b.mp4", movflags="frag_keyframe+empty_moov")
    assert facts(fragmented).duration_s == pytest.approx(4.0, abs=0.02)


def test_the_same_bytes_under_another_name_are_one_source_with_two_names(
    film: Path, tmp_path: Path
) -> None:
    (tmp_path / "another name.v2.mp4").write_bytes(film.read_bytes())
    config = ProbeConfig()
    (merged,) = merge_copies([probe(f, config) for f in list_sources(str(tmp_path)).files])
    assert (merged.uri, merged.other_uris) == ("another name.v2.mp4", ("film.mp4",))


def test_what_is_no_video_has_a_reason(tmp_path: Path, film: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    assert reason(tmp_path / "empty.mp4") == "empty"
    (tmp_path / "notes.mp4").write_text("not a video" * 100)
    assert reason(tmp_path / "notes.mp4") == "not_a_video"
    (tmp_path / "half.mp4").write_bytes(film.read_bytes()[:2000])
    assert reason(tmp_path / "half.mp4") in {"not_a_video", "undecodable"}
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=48_000)
        silence = av.AudioFrame.from_ndarray(
            np.zeros((2, 4800), np.float32), format="fltp", layout="stereo"
        )
        silence.sample_rate = 48_000
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    assert reason(tmp_path / "sound.mp4") == "no_video_stream"


@pytest.mark.parametrize("suffix", [".mkv", ".flv", ".mp4"])
def test_a_file_that_breaks_off_is_called_truncated(long_film: Write, suffix: str) -> None:
    whole = long_film(".mkv" if suffix == ".mkv" else ".mp4")
    path = whole.with_name(f"cut{suffix}")
    if suffix == ".mkv":
        path.write_bytes(whole.read_bytes())
    else:
        remuxed(whole, path, **({"movflags": "faststart"} if suffix == ".mp4" else {}))
    assert facts(path).duration_s == pytest.approx(10, abs=0.05)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    assert reason(path) == "truncated"


def test_sound_that_outlasts_the_pictures_is_no_defect(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=24)
        video.width, video.height, video.pix_fmt = 160, 90, "yuv420p"
        sound = container.add_stream("aac", rate=48_000)
        for i in range(24):
            image = moving_texture(1, size=(90, 160))(i)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
        silence = av.AudioFrame.from_ndarray(
            np.zeros((2, 8 * 48_000), np.float32), format="fltp", layout="stereo"
        )
        silence.sample_rate = 48_000
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    assert facts(path).duration_s == pytest.approx(1.0, abs=0.05)


def test_limits_are_reasons(film: Path) -> None:
    assert reason(film, ProbeConfig(max_duration_s=0.5)) == "too_long"
    assert reason(film, ProbeConfig(max_size_bytes=10)) == "too_large"
    assert reason(film, ProbeConfig(max_pixels=100)) == "too_large"
    assert reason(film, ProbeConfig(max_probe_s=1e-9)) == "timed_out"


def test_a_source_that_is_gone_since_it_was_listed_has_a_reason(film: Path) -> None:
    source = local_source(film)
    film.unlink()
    with pytest.raises(UnreadableSourceError, match=r"^missing: no such file$"):
        probe(source, ProbeConfig())


SCRIPTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{film}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{film}'\n",
    "concat_beside": "ffconcat version 1.0\nfile film.mp4\n",
    "address": "#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".ffconcat"])
def test_a_media_file_cannot_name_another_file_or_address(
    tmp_path: Path, film: Path, script: str, suffix: str
) -> None:
    playlist = tmp_path / f"list{suffix}"
    playlist.write_text(SCRIPTS[script].format(film=film))
    assert reason(playlist) == "not_a_video"


@pytest.mark.parametrize("script", SCRIPTS)
def test_nor_can_a_media_file_inside_a_tar(
    tmp_path: Path, film: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(film.parent)
    data = SCRIPTS[script].format(film=film).encode()
    with tarfile.open(tmp_path / "list.tar", "w") as tar:
        header = tarfile.TarInfo("list.mp4")
        header.size = len(data)
        tar.addfile(header, io.BytesIO(data))
    (source,) = list_sources(str(tmp_path / "list.tar")).files
    with pytest.raises(UnreadableSourceError) as raised:
        probe(source, ProbeConfig())
    assert raised.value.reason == "not_a_video"


def test_a_codec_that_nobody_knows_has_a_reason(film: Path) -> None:
    film.write_bytes(film.read_bytes().replace(b"avc1", b"zzzz"))
    assert reason(film) == "unknown_codec"


def test_a_title_in_another_encoding_does_no_harm(film: Path, tmp_path: Path) -> None:
    path = tmp_path / "titled.mkv"
    with av.open(str(film)) as read, av.open(str(path), "w") as written:
        written.metadata["title"] = "Haeschen"
        stream = written.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(read.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                written.mux(packet)
    path.write_bytes(path.read_bytes().replace(b"Haeschen", "Häschenn".encode("latin-1")))
    assert facts(path).duration_s == pytest.approx(1.0, abs=0.01)
