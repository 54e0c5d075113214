import io
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from data_engine.config import DecodeConfig, ProbeConfig, ShardConfig, ShotConfig
from data_engine.cutting import encode_clip
from data_engine.decode import cut_source
from data_engine.probe import probe
from data_engine.schema import ClipRecord, Crop
from data_engine.sources.listing import local_source
from tests.videos import HEIGHT_PX, WIDTH_PX, Image, Shot, frames_of, moving_texture, write_video


def boxed(shot: Shot, top: int, bottom: int, left: int = 0, right: int = 0) -> Shot:
    """The middle of a shot between bars of studio black with a little noise."""

    def draw(frame: int) -> Image:
        noise = np.random.default_rng(frame).integers(0, 6, (HEIGHT_PX, WIDTH_PX, 3))
        image = noise.astype(np.uint8)
        inner = np.s_[top : HEIGHT_PX - bottom, left : WIDTH_PX - right]
        image[inner] = shot(frame)[inner]
        return image

    return draw


def clip_of(
    folder: Path,
    draw: Callable[[int], Image],
    rotation_deg: int = 0,
    decode: DecodeConfig | None = None,
) -> ClipRecord:
    path = write_video(folder / "a.mp4", frames_of([(draw, 60)]), rotation_deg=rotation_deg)
    source = probe(local_source(path), ProbeConfig())
    (clip,) = cut_source(source, ShotConfig(), decode or DecodeConfig(), num_threads=1).clips
    return clip


@pytest.mark.parametrize("sides", [(24, 24, 0, 0), (0, 0, 40, 40), (24, 12, 32, 32)])
def test_bars_are_found_to_the_pixel(tmp_path: Path, sides: tuple[int, int, int, int]) -> None:
    top, bottom, left, right = sides
    crop = clip_of(tmp_path, boxed(moving_texture(1), *sides)).crop
    assert crop is not None
    found = (
        crop.top_px,
        HEIGHT_PX - crop.top_px - crop.height_px,
        crop.left_px,
        WIDTH_PX - crop.left_px - crop.width_px,
    )
    assert found == pytest.approx((top, bottom, left, right), abs=2)


def test_a_crop_is_in_display_pixels_of_a_large_turned_source(tmp_path: Path) -> None:
    def draw(frame: int) -> Image:
        image = boxed(moving_texture(1), 24, 24)(frame)
        return cv2.resize(image, (640, 360), interpolation=cv2.INTER_NEAREST).astype(np.uint8)

    small = DecodeConfig(frame_long_side_px=320)
    crop = clip_of(tmp_path, draw, rotation_deg=90, decode=small).crop
    assert crop is not None
    # Bars of 48 lines at both sides of a picture 360 wide; none of their lines is in the crop.
    assert 48 <= crop.left_px <= 52
    assert 308 <= crop.left_px + crop.width_px <= 312
    assert (crop.top_px, crop.height_px) == (0, 640)


def test_a_picture_without_bars_has_no_crop(tmp_path: Path) -> None:
    assert clip_of(tmp_path, moving_texture(1)).crop is None


def test_a_night_sky_is_no_bar(tmp_path: Path) -> None:
    def draw(frame: int) -> Image:
        image = (moving_texture(1)(frame) * 0.02).astype(np.uint8)
        # Lit windows below a dark sky.
        image[110:120, 60:80] = 200
        image[90:180, 200:230] = 160
        return image

    assert clip_of(tmp_path, draw).crop is None


def test_a_scene_that_is_dark_for_a_while_keeps_its_bars(tmp_path: Path) -> None:
    bright = boxed(moving_texture(1), 24, 24)

    def draw(frame: int) -> Image:
        return (bright(frame) * (0.05 if frame < 20 else 1.0)).astype(np.uint8)

    path = write_video(tmp_path / "a.mp4", frames_of([(draw, 60)]))
    source = probe(local_source(path), ProbeConfig())
    config = ShotConfig(detector="none", stride_s=5.0)
    (clip,) = cut_source(source, config, DecodeConfig(), num_threads=1).clips
    assert clip.crop == Crop(left_px=0, top_px=24, width_px=WIDTH_PX, height_px=HEIGHT_PX - 48)


def test_luminance_and_sharpness_are_those_of_the_picture(tmp_path: Path) -> None:
    plain = clip_of(tmp_path / "plain", moving_texture(1))
    with_bars = clip_of(tmp_path / "bars", boxed(moving_texture(1), 30, 30))
    for name in ("luminance", "sharpness"):
        assert with_bars.score(name) == pytest.approx(plain.score(name), rel=0.2)


def test_an_encoded_clip_has_no_bars(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, boxed(moving_texture(1), 24, 12, 32, 32))
    assert clip.crop is not None
    mp4 = encode_clip(clip, str(tmp_path / "a.mp4"), ShardConfig(short_side_px=100))
    with av.open(io.BytesIO(mp4), "r") as container:
        images = [
            frame.to_ndarray(format="gray").astype(np.uint8) for frame in container.decode(video=0)
        ]
    assert len(images) == clip.num_frames
    assert images[0].shape[0] == 100
    mean = np.mean(images, axis=0)
    for edge in (mean[0], mean[-1], mean[:, 0], mean[:, -1]):
        assert edge.mean() > 0.5 * mean.mean()
