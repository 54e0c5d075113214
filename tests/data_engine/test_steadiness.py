import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data_engine.steadiness import frames_still_mixed
from data_engine.thumbnails import thumbnail
from tests.data_engine.real_shots import photos
from tests.videos import HEIGHT_PX, WIDTH_PX, Image

SPEED_PX = 1.5
"""Of the camera, in each frame."""


def view(photo: int, frame: int) -> Image:
    """What a camera that pans over a photograph sees."""
    left, top = round(40 + SPEED_PX * frame), 20
    return photos()[photo][top : top + HEIGHT_PX, left : left + WIDTH_PX]


def film(num_frames: int, first: int, after: int) -> NDArray[np.uint8]:
    """Thumbnails of two photographs under a panning camera; frames `first` to `after` mix them evenly."""
    shares = np.clip((np.arange(num_frames) - first + 1) / (after - first + 1), 0, 1)
    return np.stack(
        [
            thumbnail(cv2.addWeighted(view(0, t), 1 - s, view(1, t), s, 0).astype(np.uint8))
            for t, s in enumerate(map(float, shares))
        ]
    )


FIRST, AFTER = 30, 60
FRAMES = film(90, FIRST, AFTER)


@pytest.mark.parametrize("too_narrow", [0, 3, 8])
def test_an_end_that_lies_inside_a_dissolve_is_moved_out_of_it(too_narrow: int) -> None:
    first, last = FIRST - 1 + too_narrow, AFTER - too_narrow
    middle, length = FRAMES[(first + last) // 2], last - first
    before = frames_still_mixed(FRAMES[: first + 1][::-1], middle, length)
    behind = frames_still_mixed(FRAMES[last:], middle, length)
    # Dissolves keep two more frames away at both ends.
    assert too_narrow - 2 <= before <= too_narrow + 2
    assert too_narrow - 2 <= behind <= too_narrow + 2


def test_no_more_frames_are_added_than_were_found() -> None:
    backwards = FRAMES[:59][::-1]
    assert frames_still_mixed(backwards, FRAMES[59], num_mixed=4) == 4


def test_a_shot_under_a_moving_camera_is_steady() -> None:
    panning, other = film(40, 100, 101), thumbnail(view(1, 40))
    assert frames_still_mixed(panning, other, num_mixed=15) == 0
    assert frames_still_mixed(panning[::-1], other, num_mixed=15) == 0


def test_where_frames_end_nothing_is_added() -> None:
    assert frames_still_mixed(FRAMES[:2], FRAMES[45], num_mixed=20) == 0
