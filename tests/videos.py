"""Small videos that tests write themselves: no binary file lies in the repository."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Shot = Callable[[int], Image]
"""From the number of a frame within a shot to its picture (HxWx3 RGB)."""

HEIGHT_PX, WIDTH_PX = 180, 320


def moving_texture(
    seed: int, speed_px: float = 3.0, size: tuple[int, int] = (HEIGHT_PX, WIDTH_PX)
) -> Shot:
    """A textured picture of a colour of its own that slides sideways: like a pan over a scene."""
    scene, width_px = _texture(seed, size), size[1]

    def draw(frame: int) -> Image:
        left = round(frame * speed_px) % width_px
        return np.ascontiguousarray(scene[:, left : left + width_px])

    return draw


@lru_cache(maxsize=8)
def _texture(seed: int, size: tuple[int, int]) -> Image:
    """Twice as wide as the picture that slides over it."""
    generator = np.random.default_rng(seed)
    height_px, width_px = size
    coarse = generator.integers(0, 256, (12, 40, 3), dtype=np.uint8)
    fine = generator.integers(0, 256, (height_px, width_px * 2, 3), dtype=np.uint8)
    tint = generator.integers(0, 200, 3)
    blurred = cv2.resize(coarse, (width_px * 2, height_px), interpolation=cv2.INTER_CUBIC)
    mixed = 0.55 * blurred + 0.1 * cv2.GaussianBlur(fine, (5, 5), 0) + 0.35 * tint
    return np.clip(mixed, 0, 255).astype(np.uint8)


def faded(shot: Shot, num_frames: int, fade_in: int = 0, fade_out: int = 0) -> Shot:
    """A shot that comes from black over `fade_in` frames and goes to black over `fade_out`."""

    def draw(frame: int) -> Image:
        gain = 1.0
        if frame < fade_in:
            gain = frame / fade_in
        if frame >= num_frames - fade_out:
            gain = (num_frames - 1 - frame) / fade_out
        return (shot(frame) * gain).astype(np.uint8)

    return draw


def frames_of(shots: Sequence[tuple[Shot, int]]) -> Iterable[Image]:
    """The frames of several shots, one after another. `shots`: (shot, number of frames)."""
    for shot, num_frames in shots:
        for frame in range(num_frames):
            yield shot(frame)


def write_video(
    path: Path,
    frames: Iterable[Image],
    *,
    fps: int = 24,
    times_s: Sequence[float] | None = None,
    rotation_deg: int = 0,
    options: Mapping[str, str] | None = None,
) -> Path:
    """Encode frames as H.264; at a constant rate, or at the given presentation times. `options` are the encoder's."""
    time_base = Fraction(1, 90_000)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264",
            rate=fps,
            options={"crf": "16", "preset": "ultrafast", "threads": "1", **(options or {})},
        )
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = time_base
        for i, image in enumerate(frames):
            if i == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = round((i / fps if times_s is None else times_s[i]) / time_base)
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if rotation_deg:
        _rotate(path, rotation_deg)
    return path


def _rotate(path: Path, rotation_deg: int) -> None:
    """Write the display matrix of the track header by hand: nothing here can set it while muxing."""
    data = bytearray(path.read_bytes())
    header = data.find(b"tkhd")
    version = data[header + 4]
    matrix = header + 4 + (4 + 20 + 8 + 8 if version == 0 else 4 + 32 + 8 + 8)
    one = 1 << 16
    rows = {
        90: (0, one, 0, -one, 0, 0),
        180: (-one, 0, 0, 0, -one, 0),
        270: (0, -one, 0, one, 0, 0),
    }
    for i, value in enumerate((*rows[rotation_deg], 0, 0, 1 << 30)):
        data[matrix + 4 * i : matrix + 4 * i + 4] = (value & 0xFFFFFFFF).to_bytes(4, "big")
    path.write_bytes(data)
