"""Homes of a workspace for tests, with a film that is made on the spot."""

from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

FPS = 24
SHOT_S = 2
HEIGHT_PX, WIDTH_PX = 180, 320


def write_film(path: Path) -> None:
    """Three shots of two seconds: a pan to the right, a still picture, a pan downwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        for image in _frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def _frames() -> Iterator[NDArray[np.uint8]]:
    for seed, (dy, dx) in enumerate(((0, 3), (0, 0), (2, 0))):
        place = _landscape(seed)
        for i in range(FPS * SHOT_S):
            top, left = dy * i, dx * i
            yield place[top : top + HEIGHT_PX, left : left + WIDTH_PX]


def _landscape(seed: int) -> NDArray[np.uint8]:
    """A picture larger than the frame, with detail at several sizes and the hue of its own shot."""
    random = np.random.default_rng(seed)
    shape = HEIGHT_PX * 2, WIDTH_PX * 2
    image = np.zeros((*shape, 3), np.float32)
    for cell_px, weight in ((64, 0.5), (16, 0.3), (4, 0.2)):
        small = random.random((shape[0] // cell_px, shape[1] // cell_px, 3), np.float32)
        image += weight * cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)
    tint = np.roll(np.array([1.0, 0.75, 0.45], np.float32), seed)
    return (image * tint * 255).clip(0, 255).astype(np.uint8)
