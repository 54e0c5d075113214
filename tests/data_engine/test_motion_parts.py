"""Camera and foreground: a film of a photograph that is panned over, and of one that slides over another."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_engine.config import DecodeConfig, ProbeConfig, ShotConfig
from data_engine.decode import cut_source
from data_engine.probe import probe
from data_engine.schema import ClipRecord
from data_engine.scores.motion import BACKEND
from data_engine.sources.listing import local_source
from tests.videos import HEIGHT_PX, WIDTH_PX, Image, Shot, frames_of, write_video

SPEED = 3.0 * 24 / np.hypot(HEIGHT_PX, WIDTH_PX)
"""Of both films, in frame diagonals a second."""

FORMS = [(1, 24), (2, 24), (2, 48)]
"""Size as a multiple of 320 x 180, and frames a second."""


def scaled(photo: Image, width_px: int, height_px: int) -> Image:
    resized = cv2.resize(photo, (width_px, height_px), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, dtype=np.uint8)


def pan(photo: Image, size: int, fps: int) -> Shot:
    scene = scaled(photo, 2 * WIDTH_PX * size, 2 * HEIGHT_PX * size)
    height_px, width_px = HEIGHT_PX * size, WIDTH_PX * size

    def draw(frame: int) -> Image:
        left = round(frame * 3 * size * 24 / fps)
        return np.ascontiguousarray(scene[height_px // 2 :, left:][:height_px, :width_px])

    return draw


def slide(background: Image, photo: Image, size: int, fps: int) -> Shot:
    back = scaled(background, WIDTH_PX * size, HEIGHT_PX * size)
    thing = scaled(photo, 80 * size, 80 * size)

    def draw(frame: int) -> Image:
        left = round((20 + frame * 3 * 24 / fps) * size)
        picture = back.copy()
        picture[50 * size : 130 * size, left : left + 80 * size] = thing
        return picture

    return draw


def clip_of(path: Path, shots: Sequence[tuple[Shot, int]], fps: int) -> ClipRecord:
    source = probe(local_source(write_video(path, frames_of(shots), fps=fps)), ProbeConfig())
    (clip,) = cut_source(source, ShotConfig(), DecodeConfig(), num_threads=1).clips
    return clip


@pytest.mark.parametrize(("size", "fps"), FORMS)
def test_a_pan_is_the_camera_alone(
    tmp_path: Path, photos: dict[str, Image], size: int, fps: int
) -> None:
    clip = clip_of(tmp_path / "a.mp4", [(pan(photos["cat"], size, fps), 2 * fps)], fps)
    assert clip.scores["camera_motion"].value == pytest.approx(SPEED, rel=0.05)
    assert clip.scores["foreground_motion"].value < 0.02 * SPEED
    assert clip.scores["camera_motion"].backend == BACKEND


@pytest.mark.parametrize(("size", "fps"), FORMS)
def test_a_thing_that_moves_is_not_the_camera(
    tmp_path: Path, photos: dict[str, Image], size: int, fps: int
) -> None:
    shot = slide(photos["cat"], photos["astronaut"], size, fps)
    clip = clip_of(tmp_path / "a.mp4", [(shot, 2 * fps)], fps)
    share = 80 * 80 / (WIDTH_PX * HEIGHT_PX)
    # The inner nine tenths of either side are looked at; and the flow is blurred outwards at edges.
    assert clip.scores["foreground_motion"].value == pytest.approx(SPEED * share / 0.81, rel=0.4)
    assert clip.scores["camera_motion"].value < 0.01 * SPEED


def test_a_zoom_is_the_camera(tmp_path: Path, photos: dict[str, Image]) -> None:
    scene = scaled(photos["cat"], 2 * WIDTH_PX, 2 * HEIGHT_PX)

    def draw(frame: int) -> Image:
        top, left = frame, frame * WIDTH_PX // HEIGHT_PX
        inner = scene[top : 2 * HEIGHT_PX - top, left : 2 * WIDTH_PX - left]
        return scaled(inner, WIDTH_PX, HEIGHT_PX)

    clip = clip_of(tmp_path / "a.mp4", [(draw, 48)], 24)
    assert clip.scores["camera_motion"].value > 5 * clip.scores["foreground_motion"].value


def test_a_burst_of_motion_shows_in_the_upper_percentile(
    tmp_path: Path, photos: dict[str, Image]
) -> None:
    moving = pan(photos["cat"], 1, 24)
    clip = clip_of(
        tmp_path / "a.mp4",
        [(lambda _: moving(0), 72), (moving, 24), (lambda _: moving(23), 24)],
        24,
    )
    low, middle, high = (clip.scores[n].value for n in ("motion_p10", "motion", "motion_p90"))
    assert low <= middle < 0.002
    assert high == pytest.approx(SPEED, rel=0.2)
