"""Scores that are a formula over the pixels of one frame."""

import cv2
import numpy as np
from numpy.typing import NDArray

SHARPNESS_BACKEND = "classical:laplacian-variance"
LUMINANCE_BACKEND = "classical:mean-luma"


def luminance(gray: NDArray[np.uint8]) -> float:
    """Mean luma of an HxW image, 0 (black) to 1 (white)."""
    return float(gray.mean()) / 255


def sharpness(gray: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of an HxW image: higher is sharper. Depends on the size of the image."""
    return float(cv2.Laplacian(gray, cv2.CV_32F).var())
