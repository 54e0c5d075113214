"""Optical flow between two frames, in units that do not depend on resolution or frame rate."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

BACKEND = "classical:dis-flow-fast+similarity-v1"

CameraMotion = Literal[
    "static", "panning left", "panning right", "tilting up", "tilting down", "zooming"
]

# Of the frame diagonal a second; below it, what moves is not the camera.
_MIN_CAMERA_SPEED = 0.02
# Vectors that the fit of the camera looks at, along the long side of the frame.
_FIT_POINTS = 64
_FIT_STEPS = 10
# In pixels between the two frames: the flow is no more exact than this, so that less is no motion of its own.
_FLOW_ERROR_PX = 0.1
# Of each side of the frame: what comes into view there has no counterpart, and its flow is a guess.
_BORDER_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Flow:
    """The motion between two frames, in frame diagonals a second.

    `speed` is the mean length of the flow vectors; `right` and `down` are the median vector, which follows the
    camera; `outwards` is the mean flow away from the centre. `camera` is the mean length of the one shift, zoom and
    roll that most of the frame follows, and `foreground` that of what is left of the flow without it: what fills
    most of the frame is taken for the background, and parallax counts as foreground.
    """

    speed: float
    camera: float
    foreground: float
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
        flow_HW2 = np.asarray(flow_HW2)
        camera_px, foreground_px = _split(flow_HW2)
        diagonals_px_s = float(np.hypot(height_px, width_px)) * elapsed_s
        flow_HW2 = flow_HW2 / diagonals_px_s
        ys = np.linspace(-1, 1, height_px)[:, None]
        xs = np.linspace(-1, 1, width_px)[None, :]
        radius = np.maximum(np.hypot(xs, ys), 0.1)
        outwards = (flow_HW2[..., 0] * xs + flow_HW2[..., 1] * ys) / radius
        return Flow(
            speed=float(np.linalg.norm(flow_HW2, axis=-1).mean()),
            camera=camera_px / diagonals_px_s,
            foreground=foreground_px / diagonals_px_s,
            right=float(np.median(flow_HW2[..., 0])),
            down=float(np.median(flow_HW2[..., 1])),
            outwards=float(outwards.mean()),
        )


def _split(flow_HW2: NDArray[np.float32]) -> tuple[float, float]:
    """Mean length in pixels of the camera's part of the flow, and of the rest.

    The camera's part is a similarity (shift, zoom, roll), fitted by least squares with weights that take vectors
    far from it out step by step (Cauchy).
    """
    height_px, width_px = flow_HW2.shape[:2]
    top, left = round(_BORDER_SHARE * height_px), round(_BORDER_SHARE * width_px)
    step_px = max(1, max(height_px, width_px) // _FIT_POINTS)
    ys, xs = np.mgrid[top : height_px - top : step_px, left : width_px - left : step_px]
    flow_N2 = flow_HW2[ys, xs].reshape(-1, 2).astype(np.float64)
    x_N = (xs.ravel() - width_px / 2) / width_px
    y_N = (ys.ravel() - height_px / 2) / width_px
    one_N, zero_N = np.ones_like(x_N), np.zeros_like(x_N)
    # Columns: shift right, shift down, zoom, roll; the rows of all x come before those of all y.
    design_2N4 = np.concatenate(
        [
            np.stack([one_N, zero_N, x_N, -y_N], axis=1),
            np.stack([zero_N, one_N, y_N, x_N], axis=1),
        ]
    )
    target_2N = flow_N2.T.ravel()
    camera_N2 = np.broadcast_to(np.median(flow_N2, axis=0), flow_N2.shape)
    for _ in range(_FIT_STEPS):
        rest_N = np.linalg.norm(flow_N2 - camera_N2, axis=1)
        scale_px = max(float(np.median(rest_N)), _FLOW_ERROR_PX)
        weights_2N1 = np.tile(1 / (1 + (rest_N / scale_px) ** 2), 2)[:, None]
        weighted_2N4 = design_2N4 * weights_2N1
        similarity_4 = np.linalg.solve(weighted_2N4.T @ design_2N4, weighted_2N4.T @ target_2N)
        camera_N2 = (design_2N4 @ similarity_4).reshape(2, -1).T
    rest_N = np.linalg.norm(flow_N2 - camera_N2, axis=1)
    return float(np.linalg.norm(camera_N2, axis=1).mean()), float(rest_N.mean())


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
