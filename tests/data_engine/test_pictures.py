"""How frames become pictures: smaller without false patterns, and for an ordinary screen."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data_engine import hdr
from data_engine.config import DecodeConfig, ProbeConfig, ShardConfig, ShotConfig
from data_engine.container import decode_frames, decode_jpeg, open_video, upright_rgb
from data_engine.cutting import encode_clip
from data_engine.decode import cut_source
from data_engine.probe import probe
from data_engine.sources.listing import local_source
from tests.videos import write_video

SIZE = (1080, 1920)


def zone_plate() -> NDArray[np.uint8]:
    """Rings that get finer outwards, up to what 1080 lines can show: made smaller carelessly, they show others."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    squared = (x - SIZE[1] / 2) ** 2 + (y - SIZE[0] / 2) ** 2
    rings = 127.5 + 110 * np.cos(np.pi * squared / SIZE[1])
    return np.stack([rings.astype(np.uint8)] * 3, axis=-1)


def distance(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(np.sqrt(((one.astype(float) - other) ** 2).mean()))


def test_neither_clips_nor_kept_frames_show_patterns_that_are_not_there(tmp_path: Path) -> None:
    plate = zone_plate()
    path = write_video(tmp_path / "a.mp4", [plate] * 30, options={"crf": "1"})
    source = probe(local_source(path), ProbeConfig())
    done = cut_source(source, ShotConfig(), DecodeConfig(), num_threads=1)
    kept = decode_jpeg(done.frames[0].jpeg)
    assert distance(kept, cv2.resize(plate, kept.shape[1::-1], interpolation=cv2.INTER_AREA)) < 6

    config = ShardConfig(short_side_px=256, crf=1)
    (tmp_path / "clip.mp4").write_bytes(encode_clip(done.clips[0], str(path), config))
    with open_video(str(tmp_path / "clip.mp4"), 1) as (container, stream):
        frame = next(iter(decode_frames(container, stream)))
        clip = upright_rgb(frame, frame.height, frame.width, 0)
    wanted = cv2.resize(plate, clip.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert distance(clip, wanted) < 6


def test_an_encoded_clip_names_its_colours(tmp_path: Path) -> None:
    colours = np.zeros((180, 320, 3), np.uint8)
    colours[:, :160], colours[:, 160:] = (200, 40, 30), (20, 160, 60)
    path = write_video(tmp_path / "a.mp4", [colours] * 30, options={"crf": "1"})
    clip = cut_source(
        probe(local_source(path), ProbeConfig()), ShotConfig(), DecodeConfig(), num_threads=1
    ).clips[0]
    mp4 = encode_clip(clip, str(path), ShardConfig(short_side_px=90, crf=1))
    (tmp_path / "clip.mp4").write_bytes(mp4)
    with open_video(str(tmp_path / "clip.mp4"), 1) as (container, stream):
        frame = next(iter(decode_frames(container, stream)))
        assert (frame.color_primaries, frame.color_trc, frame.colorspace) == (1, 1, 6)
        image = upright_rgb(frame, 90, 160, 0)
    assert np.abs(image[45, 40].astype(int) - (200, 40, 30)).max() <= 6
    assert np.abs(image[45, 120].astype(int) - (20, 160, 60)).max() <= 6


def code_of(light: float, transfer: int) -> float:
    """The signal, 0 to 1, of so much light in cd/m2, by ITU-R BT.2100."""
    if transfer == hdr.PQ:
        powered = (light / 10_000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * powered) / (1 + 18.6875 * powered)) ** 78.84375
    scene = (light / 1000) ** (1 / 1.2)
    if scene <= 1 / 12:
        return float(np.sqrt(3 * scene))
    return float(0.17883277 * np.log(12 * scene - 0.28466892) + 0.55991073)


@pytest.mark.parametrize("transfer", [hdr.PQ, hdr.HLG])
def test_high_dynamic_range_is_seen_and_encoded_as_on_an_ordinary_screen(
    tmp_path: Path, transfer: int
) -> None:
    """Stripes of 10, 50, 203 and 1000 cd/m2, and a saturated red."""
    grays = [code_of(light, transfer) for light in (10, 50, 203, 1000)]
    red = [code_of(light, transfer) for light in (80, 3, 3)]
    stripes = [np.array(c) * np.ones(3) for c in (*[[g] * 3 for g in grays], red)]
    image = np.zeros((180, 320, 3), np.uint16)
    for number, colour in enumerate(stripes):
        image[:, number * 64 : (number + 1) * 64] = np.round(colour * 65535)
    path = tmp_path / "hdr.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 180, 320, "yuv420p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = 9, transfer, 9
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(image, format="rgb48le").reformat(
                format="yuv420p10le", dst_colorspace="BT2020"
            )
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    source = probe(local_source(path), ProbeConfig())
    done = cut_source(source, ShotConfig(), DecodeConfig(), num_threads=1)
    mp4 = encode_clip(done.clips[0], str(path), ShardConfig(short_side_px=90, crf=1))
    (tmp_path / "clip.mp4").write_bytes(mp4)
    with open_video(str(tmp_path / "clip.mp4"), 1) as (container, stream):
        clip = upright_rgb(next(iter(decode_frames(container, stream))), 90, 160, 0)
    for seen in (cv2.resize(decode_jpeg(done.frames[0].jpeg), (160, 90)), clip):
        middles = seen[45, 16::32].astype(int)
        # 10 and 50 cd/m2 of the 203 of white, on a screen of gamma 2.4; highlights are compressed and not cut off.
        assert abs(middles[0] - 73).max() <= 5
        assert abs(middles[1] - 142).max() <= 5
        assert 215 < middles[2].mean() < 245
        assert middles[3].min() >= 250
        assert middles[4][0] > 150
        assert middles[4][1] < 40
