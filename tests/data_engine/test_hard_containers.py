"""Files whose container tells little of time, or whose data were damaged on the way."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.stream import VideoStream

from data_engine.clips import CutSource
from data_engine.config import DecodeConfig, ProbeConfig, ShardConfig, ShotConfig
from data_engine.container import decode_frames, open_video, upright_rgb
from data_engine.cutting import encode_clip
from data_engine.decode import cut_source
from data_engine.errors import DecodeError
from data_engine.probe import probe
from data_engine.schema import SourceVideo
from data_engine.sources.listing import local_source
from tests.videos import HEIGHT_PX, WIDTH_PX, frames_of, moving_texture

FPS, NUM_FRAMES = 25, 75
SHARDS = ShardConfig(short_side_px=90, copy_streams=False)


def write(path: Path, codec: str, options: dict[str, str], gop: int = 12) -> Path:
    """Three shots of a second each, with B-frames."""
    shots = [(moving_texture(seed), FPS) for seed in (1, 2, 3)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options={"threads": "1", **options})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = HEIGHT_PX, WIDTH_PX, "yuv420p"
        stream.bit_rate = 4_000_000
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, 2
        for number, image in enumerate(frames_of(shots)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def cut(path: Path, num_threads: int = 1) -> tuple[SourceVideo, CutSource]:
    source = probe(local_source(path), ProbeConfig())
    return source, cut_source(source, ShotConfig(), DecodeConfig(), num_threads=num_threads)


def pictures(data: bytes, tmp_path: Path) -> list[np.ndarray]:
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    with open_video(str(path), 1) as (container, stream):
        return [upright_rgb(frame, 90, 160, 0) for frame in decode_frames(container, stream)]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("film.mpg", "mpeg2video", {}),
        ("film.avi", "libx264", {}),
        ("film.avi", "libx264", {"x264-params": "open-gop=1"}),
        ("film.avi", "mpeg4", {}),
        ("film.ts", "libx264", {}),
        ("film.ogv", "libvpx", {"deadline": "realtime", "cpu-used": "8"}),
    ],
)
def test_b_frames_and_seeks_lose_no_frame_and_mix_up_none(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    path = write(tmp_path / name, codec, options)
    source, done = cut(path)
    assert [clip.num_frames for clip in done.clips] == [FPS] * 3
    for number, clip in enumerate(done.clips, start=1):
        # At the size of the source packets may be copied.
        config = SHARDS if number < 3 else ShardConfig(short_side_px=HEIGHT_PX)
        made = pictures(encode_clip(clip, source.location, config, num_threads=1), tmp_path)
        assert len(made) == FPS
        shot = moving_texture(number)
        for frame, image in enumerate(made):
            true = cv2.resize(shot(frame), (160, 90), interpolation=cv2.INTER_AREA)
            off = np.abs(image.astype(int) - true).mean()
            beside = cv2.resize(shot(frame + 2), (160, 90), interpolation=cv2.INTER_AREA)
            assert off < np.abs(image.astype(int) - beside).mean(), (number, frame)


def damage(path: Path, wanted: Callable[[int], bool]) -> Path:
    """Overwrite the middle of some packets, by their number in the file."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(container.streams.video[0]) if p.size]
    data = bytearray(path.read_bytes())
    for number, packet in enumerate(packets):
        if wanted(number):
            assert packet.pos is not None
            start = packet.pos + packet.size // 3
            data[start : start + packet.size // 3] = b"\xff" * (packet.size // 3)
    path.write_bytes(data)
    return path


def test_frames_that_were_damaged_are_in_no_clip(tmp_path: Path) -> None:
    path = write(tmp_path / "film.mp4", "libx264", {"bf": "0"}, gop=FPS)
    whole = cut(path)[1]
    assert whole.num_damaged == 0
    # In the middle of the second shot; it is predicted from, up to the key frame of the third.
    done = cut(damage(path, lambda number: number == FPS + 14))[1]
    spans = [(round(c.start_s * FPS), round(c.end_s * FPS)) for c in done.clips]
    assert spans == [(0, 25), (25, 39), (50, 75)]
    assert done.num_damaged == 11
    # How many threads decode depends on how much else there is to do.
    assert cut(path, num_threads=4)[1] == done


def lose(path: Path, numbers: range) -> Path:
    """Overwrite whole packets with what is no video at all."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(container.streams.video[0]) if p.size]
    data = bytearray(path.read_bytes())
    for packet in packets[numbers.start : numbers.stop]:
        assert packet.pos is not None
        data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(data)
    return path


def test_what_is_lost_costs_its_shot_and_not_the_film(tmp_path: Path) -> None:
    path = lose(write(tmp_path / "film.mp4", "libx264", {"bf": "0"}, gop=FPS), range(30, 35))
    source, done = cut(path)
    spans = [(round(c.start_s * FPS), round(c.end_s * FPS)) for c in done.clips]
    assert spans[0] == (0, 25)
    assert spans[-1] == (50, 75)
    assert all(end <= 30 or start >= 50 for start, end in spans)
    assert cut(path, num_threads=4)[1] == done
    for clip in done.clips:
        made = pictures(encode_clip(clip, source.location, SHARDS, num_threads=1), tmp_path)
        assert len(made) == clip.num_frames


def test_a_film_that_is_mostly_lost_is_an_error(tmp_path: Path) -> None:
    path = lose(write(tmp_path / "film.mp4", "libx264", {"bf": "0"}, gop=FPS), range(10, 65))
    with pytest.raises(DecodeError, match="frames are damaged"):
        cut(path)
