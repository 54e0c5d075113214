"""Scores that are a formula over the pixels of one frame."""

import cv2
import numpy as np
from numpy.typing import NDArray

SHARPNESS_BACKEND = "classical:laplacian-variance"
LUMINANCE_BACKEND = "classical:mean-luma"
TECHNICAL_QUALITY_BACKEND = "classical:brisque-sharpness-colour-exposure-v1"

# Where each part of the technical quality reaches one half.
_HALF_SHARPNESS = 60.0
_HALF_COLOURFULNESS = 12.0


def luminance(gray: NDArray[np.uint8]) -> float:
    """Mean luma of an HxW image, 0 (black) to 1 (white)."""
    return float(gray.mean()) / 255


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
