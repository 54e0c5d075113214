"""Shots to edit films from: a real photograph under a moving camera, and pieces of real footage."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data as photographs

from data_engine.decode import decode_span
from tests.photographs import sample_photo
from tests.videos import HEIGHT_PX, WIDTH_PX, Image

# Seconds of Big Buck Bunny inside single shots, checked by eye.
FOOTAGE_S = (
    (12.1, 15.1), (47.9, 55.9), (56.3, 60.4), (64.0, 66.5), (75.7, 79.8), (80.1, 89.0), (91.6, 97.0),
    (100.0, 103.7), (113.0, 117.6), (123.6, 126.7), (186.2, 189.1), (200.0, 204.0), (214.0, 220.0),
    (232.7, 241.0), (243.7, 250.5), (266.4, 270.1), (270.6, 275.7), (281.6, 284.5), (292.4, 295.0),
    (308.5, 312.3), (381.4, 389.5), (399.9, 403.5), (412.3, 415.3), (436.4, 440.0), (452.0, 458.0),
)  # fmt: skip  # a table

TimedShot = Callable[[float], Image]
"""From seconds since the shot began to its picture (HxWx3 RGB). Defined before its start and after its end too."""


@cache
def photos() -> tuple[Image, ...]:
    """Photographs of scenes and things that ship inside scikit-image and scikit-learn, 1.6 film widths or wider."""
    gray = [photographs.camera(), photographs.coins(), photographs.moon(), photographs.brick()]
    colour = [
        photographs.cat(),
        photographs.coffee(),
        photographs.rocket(),
        photographs.astronaut(),
        photographs.hubble_deep_field(),
        photographs.immunohistochemistry(),
        photographs.retina(),
        sample_photo("china.jpg"),
        sample_photo("flower.jpg"),
        *(np.stack([image] * 3, axis=-1) for image in gray),
    ]
    scaled: list[Image] = []
    for image in colour:
        scale = 1.6 * WIDTH_PX / image.shape[1]
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        scaled.append(cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8))
    return tuple(scaled)


def photo_shot(photo: Image, generator: np.random.Generator) -> TimedShot:
    """A camera over a photograph: still, panning, zooming, hand-held, or with a whip pan half a second in."""
    height_px, width_px = photo.shape[:2]
    centre = np.array([width_px, height_px]) * generator.uniform(0.42, 0.58, 2)
    velocity = generator.normal(0, 25, 2) * (generator.random() < 0.7)  # pixels a second
    zoom_rate = float(generator.normal(0, 0.06)) * (generator.random() < 0.6)
    shake_px = float(generator.choice((0.0, 0.8, 2.0)))
    phases = generator.uniform(0, 2 * np.pi, 4)
    mirrored = generator.random() < 0.5
    gain, noise = float(generator.uniform(0.6, 1.1)), _noise(generator)
    whip_px = float(generator.choice((-220, 220))) if generator.random() < 0.2 else 0.0
    subject = _subject(generator) if generator.random() < 0.35 else None

    def corner(time_s: float) -> NDArray[np.float64]:
        shake = np.sin(2 * np.pi * np.array([1.3, 1.7]) * time_s + phases[:2])
        shake += 0.5 * np.sin(2 * np.pi * np.array([4.1, 3.7]) * time_s + phases[2:])
        # An ease in and out over a fifth of a second.
        turn = np.clip((time_s - 0.5) / 0.2, 0, 1)
        whip = np.array([whip_px * (3 * turn**2 - 2 * turn**3), 0])
        return centre + velocity * time_s + shake_px * shake + whip

    def view(time_s: float) -> Image:
        zoom = float(np.exp(zoom_rate * time_s))
        x, y = corner(time_s)
        matrix = np.array([[zoom, 0, x - zoom * WIDTH_PX / 2], [0, zoom, y - zoom * HEIGHT_PX / 2]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(
            photo, matrix, (WIDTH_PX, HEIGHT_PX), flags=flags, borderMode=cv2.BORDER_REFLECT_101
        ).astype(np.uint8, copy=False)

    def draw(time_s: float) -> Image:
        if whip_px and 0.48 < time_s < 0.72:
            # The shutter is open for half a frame: fast motion is smeared.
            image = np.mean([view(time_s + s / 60 / 8) for s in range(8)], axis=0)
        else:
            image = view(time_s)
        if mirrored:
            image = image[:, ::-1]
        image = image * gain
        if subject is not None:
            subject(image, time_s)
        image += noise[round(time_s * 1000) % len(noise)]
        return np.clip(image, 0, 255).astype(np.uint8)

    return draw


def footage_shot(path: Path, start_s: float, end_s: float) -> TimedShot:
    """A piece of a film that holds no cut. Beyond its ends its first and last frames stand still."""
    frames = _read(path, start_s, end_s)
    # Real frames are there before the shot starts: a dissolve from it moves.
    lead_s = 0.5

    def draw(time_s: float) -> Image:
        place = (time_s + lead_s) / (end_s - start_s) * len(frames)
        return frames[int(np.clip(place, 0, len(frames) - 1))]

    return draw


@cache
def _read(path: Path, start_s: float, end_s: float) -> list[Image]:
    return [
        frame.to_ndarray(format="rgb24", width=WIDTH_PX, height=HEIGHT_PX).astype(np.uint8)
        for frame, _ in decode_span(str(path), start_s, end_s)
    ]


def _subject(generator: np.random.Generator) -> Callable[[NDArray[Any], float], None]:
    """An oval piece of another photograph that crosses the picture."""
    source = photos()[int(generator.integers(len(photos())))]
    height_px, width_px = (int(generator.uniform(50, 110)) for _ in range(2))
    patch = source[:height_px, :width_px].astype(np.float64)
    ys, xs = np.mgrid[-1 : 1 : height_px * 1j, -1 : 1 : width_px * 1j]
    inside = (xs**2 + ys**2 < 1)[..., None]
    top = int(generator.integers(0, HEIGHT_PX - height_px))
    start_px, speed_px = generator.uniform(0, WIDTH_PX), generator.uniform(30, 120)
    way = float(generator.choice((-1, 1)))

    def paint(image: NDArray[Any], time_s: float) -> None:
        # There and back again.
        reach_px = WIDTH_PX - width_px
        left = int(abs((start_px + way * speed_px * time_s) % (2 * reach_px) - reach_px))
        place = image[top : top + height_px, left : left + width_px]
        place[...] = np.where(inside, patch, place)

    return paint


def _noise(generator: np.random.Generator) -> NDArray[np.float32]:
    strength = float(generator.uniform(0.5, 4.0))
    return generator.normal(0, strength, (7, HEIGHT_PX, WIDTH_PX, 1)).astype(np.float32)
