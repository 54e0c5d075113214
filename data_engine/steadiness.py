"""Where a transition really ends: how far out the picture still turns into the one in its middle.

A fitted ramp says where most of a transition lies; its first and last frames are mixed by a few percent, which a fit
of all of it does not see where the camera moves or the rate varies. Here what motion can change of a picture is taken
out first, and frames are compared with neighbours only.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from data_engine.thumbnails import THUMBNAIL_SIZE, floats

# Frames whose pictures are compared: the progress from one frame to the next is lost in the noise.
_FRAMES_APART = 3
# An even transition makes a progress of 1 / its length in each frame; below this part of it the picture is steady.
_MIN_PROGRESS = 0.4
# Where less is left to go, in values of a pixel, nothing can be told from noise.
_MIN_WAY = 2.0
# Of the change and the way to go; a subject that moves changes the picture in other ways.
_MIN_COSINE = 0.35
# Standard deviation, in pixels of a thumbnail: makes motion by about one of them look linear.
_BLUR = 1.0


def frames_still_mixed(
    outward: NDArray[np.uint8], middle: NDArray[np.uint8], num_mixed: int
) -> int:
    """How many frames of `outward` belong to the transition: N x 576, leading away from its fitted end.

    `middle` (576) is a frame inside it, and `num_mixed` its fitted length: no more frames than that are added.
    """
    pictures = [_blurred(picture) for picture in floats(outward[: num_mixed + _FRAMES_APART])]
    goal = _blurred(floats(middle))
    for more in range(len(pictures) - _FRAMES_APART):
        progress = _progress(pictures[more + _FRAMES_APART], pictures[more], goal)
        if progress <= _MIN_PROGRESS * _FRAMES_APART / (num_mixed + more):
            return more
    return max(0, len(pictures) - _FRAMES_APART)


def _progress(
    before: NDArray[np.float64], after: NDArray[np.float64], goal: NDArray[np.float64]
) -> float:
    """How much of the way from `before` to `goal` is gone with `after`, but for what a moving camera changes."""
    still = _without_motion(before, np.stack([goal - before, after - before], axis=1))
    way, gone = still[:, 0], still[:, 1]
    whole, along = float(way @ way), float(gone @ way)
    if whole < _MIN_WAY**2 * len(way) or along < _MIN_COSINE * np.sqrt(whole * (gone @ gone)):
        return 0.0
    return along / whole


def _without_motion(
    picture: NDArray[np.float64], changes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Changes of a picture (576 x K) less what a small pan, tilt or zoom would do to it."""
    width, height = THUMBNAIL_SIZE
    down, right = np.gradient(picture.reshape(height, width))
    y = np.arange(height)[:, None] - (height - 1) / 2
    x = np.arange(width) - (width - 1) / 2
    motions = np.stack([right.ravel(), down.ravel(), (x * right + y * down).ravel()], axis=1)
    basis, _ = np.linalg.qr(motions)
    return changes - basis @ (basis.T @ changes)


def _blurred(picture: NDArray[np.float32]) -> NDArray[np.float64]:
    width, height = THUMBNAIL_SIZE
    blurred = cv2.GaussianBlur(picture.reshape(height, width), (0, 0), _BLUR)
    return blurred.astype(np.float64).ravel()
