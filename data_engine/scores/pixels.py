"""Scores that are a formula over the pixels of one frame, or over the mean luma of its neighbours."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

SHARPNESS_BACKEND = "classical:laplacian-variance"
LUMINANCE_BACKEND = "classical:mean-luma"
FLICKER_BACKEND = "classical:luma-beside-neighbours-v1"
BLACK_BACKEND = "classical:dark-and-even-v1"
TECHNICAL_QUALITY_BACKEND = "classical:brisque-sharpness-colour-exposure-v1"

# Where each part of the technical quality reaches one half.
_HALF_SHARPNESS = 60.0
_HALF_COLOURFULNESS = 12.0
# Of luma, 0 to 255: a black frame is below in its mean, and below in its deviation. A night sky with a moon is not.
_BLACK_LUMA = 12.0
_BLACK_DEVIATION = 8.0


def luminance(gray: NDArray[np.uint8]) -> float:
    """Mean luma of an HxW image, 0 (black) to 1 (white)."""
    return float(gray.mean()) / 255


def is_black(gray: NDArray[np.uint8]) -> bool:
    """Whether an HxW image shows nothing: its mean luma is below 12 of 255, and it is even."""
    return float(gray.mean()) < _BLACK_LUMA and float(gray.std()) < _BLACK_DEVIATION


def flicker(luminances: Sequence[float]) -> float | None:
    """How far the mean luma of a frame is from that of its two neighbours together, as a mean over the frames.

    Takes the mean luma (0 to 1) of successive frames; None for fewer than three. 0 is steady light or a steady
    fade, 1 is black and white in turn. It depends on the frame rate, as what is seen does, and not on the size.
    """
    if len(luminances) < 3:
        return None
    return float(np.abs(np.diff(np.asarray(luminances), n=2)).mean()) / 2


def sharpness(gray: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of an HxW image: higher is sharper. Depends on the size of the image."""
    return float(cv2.Laplacian(gray, cv2.CV_32F).var())


def colourfulness(image_rgb: NDArray[np.uint8]) -> float:
    """Of an HxWx3 RGB image: 0 is gray, about 100 very colourful (Hasler and Suesstrunk, 2003)."""
    red, green, blue = (image_rgb[:, :, channel].astype(np.float32) for channel in range(3))
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    offset = np.hypot(red_green.mean(), yellow_blue.mean())
    return float(spread + 0.3 * offset)


def technical_quality(image_rgb: NDArray[np.uint8], brisque: float) -> float:
    """0 (bad) to 1 (good): the geometric mean of naturalness, sharpness, colour and exposure of one image.

    A stand-in where no aesthetic model is at hand. It ranks a picture above its degraded copies; it says nothing
    of beauty.
    """
    gray = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)
    sharp, colour = sharpness(gray), colourfulness(image_rgb)
    parts = (
        1 - min(max(brisque, 0.0), 99.0) / 100,
        sharp / (sharp + _HALF_SHARPNESS),
        colour / (colour + _HALF_COLOURFULNESS),
        1 - abs(2 * luminance(gray) - 1) ** 3,
    )
    return float(np.prod(parts) ** (1 / len(parts)))
