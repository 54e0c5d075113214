"""Optical flow between two frames, in units that do not depend on resolution or frame rate."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

BACKEND = "classical:dis-flow-fast"

CameraMotion = Literal[
    "static", "panning left", "panning right", "tilting up", "tilting down", "zooming"
]

# Of the frame diagonal a second; below it, what moves is not the camera.
_MIN_CAMERA_SPEED = 0.02


@dataclass(frozen=True, slots=True)
class Flow:
    """The motion between two frames, in frame diagonals a second.

    `speed` is the mean length of the flow vectors; `right` and `down` are the median vector, which follows the
    camera; `outwards` is the mean flow away from the centre.
    """

    speed: float
    right: float
    down: float
    outwards: float


class MotionMeter:
    """Dense inverse search flow (Kroeger et al., 2016), as OpenCV has it."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def measure(
        self, before_gray: NDArray[np.uint8], after_gray: NDArray[np.uint8], elapsed_s: float
    ) -> Flow:
        """Flow between two HxW images that are `elapsed_s` apart."""
        height_px, width_px = before_gray.shape
        flow_HW2 = self._flow.calc(before_gray, after_gray, None)  # pyright: ignore[reportCallIssue, reportArgumentType]  # None asks OpenCV to allocate the result
        flow_HW2 = np.asarray(flow_HW2) / (np.hypot(height_px, width_px) * elapsed_s)
        ys = np.linspace(-1, 1, height_px)[:, None]
        xs = np.linspace(-1, 1, width_px)[None, :]
        radius = np.maximum(np.hypot(xs, ys), 0.1)
        outwards = (flow_HW2[..., 0] * xs + flow_HW2[..., 1] * ys) / radius
        return Flow(
            speed=float(np.linalg.norm(flow_HW2, axis=-1).mean()),
            right=float(np.median(flow_HW2[..., 0])),
            down=float(np.median(flow_HW2[..., 1])),
            outwards=float(outwards.mean()),
        )


def camera_motion(right: float, down: float, outwards: float) -> CameraMotion:
    """A word for the motion of the camera, from the median flow of a clip.

    The picture moves against the camera: content that drifts left means a pan to the right.
    """
    strongest = max(abs(right), abs(down), abs(outwards))
    if strongest < _MIN_CAMERA_SPEED:
        return "static"
    if strongest == abs(outwards):
        return "zooming"
    if strongest == abs(right):
        return "panning right" if right < 0 else "panning left"
    return "tilting down" if down < 0 else "tilting up"
