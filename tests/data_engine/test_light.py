"""Flicker and black frames, over films of a photograph."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from data_engine.config import DecodeConfig, ProbeConfig, ShotConfig
from data_engine.decode import cut_source
from data_engine.probe import probe
from data_engine.schema import ClipRecord
from data_engine.scores.pixels import flicker, is_black
from data_engine.sources.listing import local_source
from tests.videos import Image, Shot, faded, frames_of, moving_texture, write_video

# Clips of a whole film, whatever its light does.
WHOLE = ShotConfig(detector="none", stride_s=8.0)


def clip_of(path: Path, shot: Shot, num_frames: int) -> ClipRecord:
    source = probe(local_source(write_video(path, frames_of([(shot, num_frames)]))), ProbeConfig())
    (clip,) = cut_source(source, WHOLE, DecodeConfig(), num_threads=1).clips
    return clip


def lit(photo: Image, gains: tuple[float, ...], scale: float = 1.0) -> Shot:
    """The photograph, brighter and darker in turn."""
    size = (round(320 * scale), round(180 * scale))
    picture = np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return lambda frame: (picture * gains[frame % len(gains)]).astype(np.uint8)


def test_flicker_is_measured_against_the_trend() -> None:
    assert flicker([0.0, 1.0, 0.0, 1.0]) == 1
    assert flicker([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(0)
    assert flicker([0.5, 0.5]) is None


def test_light_that_changes_from_frame_to_frame_flickers(
    tmp_path: Path, photos: dict[str, Image]
) -> None:
    photo = photos["cat"]
    luma = float(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).mean()) / 255
    for scale in (1.0, 2.0):
        clip = clip_of(tmp_path / f"{scale}.mp4", lit(photo, (1.0, 0.8), scale), 48)
        assert clip.scores["flicker"].value == pytest.approx(0.2 * luma, rel=0.15)


def test_a_pan_and_a_fade_do_not_flicker(tmp_path: Path) -> None:
    pan = moving_texture(1)
    for name, shot in (("pan", pan), ("fade", faded(pan, 48, fade_in=40))):
        assert clip_of(tmp_path / f"{name}.mp4", shot, 48).scores["flicker"].value < 0.003


def test_the_share_of_black_frames_is_that_of_the_time(
    tmp_path: Path, photos: dict[str, Image]
) -> None:
    shown = lit(photos["cat"], (1.0,))
    clip = clip_of(tmp_path / "a.mp4", lambda frame: shown(frame) // (1 if frame < 72 else 250), 96)
    assert clip.scores["black_share"].value == pytest.approx(0.25)
    assert clip_of(tmp_path / "b.mp4", shown, 48).scores["black_share"].value == 0


def test_a_dark_picture_is_not_black(photos: dict[str, Image]) -> None:
    night = cv2.cvtColor(photos["cat"], cv2.COLOR_RGB2GRAY).astype(np.uint8) // 255
    assert is_black(night)
    height_px, width_px = night.shape
    cv2.circle(night, (width_px // 2, height_px // 3), height_px // 12, (220,), -1)
    assert night.mean() < 12
    assert not is_black(night)


def test_a_clip_of_two_frames_has_no_flicker(tmp_path: Path) -> None:
    scores = clip_of(tmp_path / "a.mp4", moving_texture(1), 2).scores
    assert "flicker" not in scores
    assert "black_share" in scores
