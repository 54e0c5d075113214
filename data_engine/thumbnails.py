"""Frames made small, and how far they are apart: what finding transitions looks at.

Compared by the root mean square of their difference, 0 to 255.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

THUMBNAIL_SIZE = (32, 18)
"""Width and height: so coarse that a slow pan changes little, and an hour at 24 fps takes 50 MB."""

_BLOCK = 4096


def thumbnail(frame_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame as a vector of 18 x 32 values of luma."""
    small = cv2.resize(frame_bgr, THUMBNAIL_SIZE, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.uint8, copy=False).reshape(-1)


def steps_between(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Distance of each frame from the one before it; 0 for the first. N x 576 to N."""
    steps = np.zeros(len(thumbnails), np.float32)
    for start in range(1, len(thumbnails), _BLOCK):
        block = floats(thumbnails[start - 1 : start + _BLOCK])
        steps[start : start + _BLOCK] = np.sqrt(((block[1:] - block[:-1]) ** 2).mean(1))
    return steps


def mean_and_contrast(
    thumbnails: NDArray[np.uint8],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of each frame. N x 576 to N and N."""
    mean = np.empty(len(thumbnails), np.float32)
    contrast = np.empty(len(thumbnails), np.float32)
    for start in range(0, len(thumbnails), _BLOCK):
        block = floats(thumbnails[start : start + _BLOCK])
        mean[start : start + _BLOCK] = block.mean(1)
        contrast[start : start + _BLOCK] = block.std(1)
    return mean, contrast


def floats(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The same values, which differences do not wrap round."""
    return thumbnails.astype(np.float32)


def centred(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each picture (N x 576) less its mean."""
    return pictures - pictures.mean(1, keepdims=True)


def distances(
    pictures: NDArray[np.float32], other: NDArray[np.float32] | np.float32
) -> NDArray[np.float32]:
    """Of each picture (N x 576) from another one, or from a colour."""
    return np.sqrt(((pictures - other) ** 2).mean(1))


def correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Of the values of two pictures, -1 to 1; 1 if one of them is blank."""
    first, second = one - one.mean(), other - other.mean()
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / norm if norm > 0 else 1.0
