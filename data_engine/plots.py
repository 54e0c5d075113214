"""Pictures of a curation run, as PNG bytes small enough to store with a run."""

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from data_engine.container import decode_jpeg

_KEPT, _LOST, _LIMIT, _INK = "#2a7f62", "#c8553d", "#222222", "#333333"


def funnel(steps: Sequence[tuple[str, int]]) -> bytes:
    """How many clips are left after each step, as bars with the number beside each."""
    figure = _figure(6.4, 0.45 * len(steps) + 0.8)
    axes = figure.subplots()
    names = [name for name, _ in steps]
    counts = [count for _, count in steps]
    lost = [0, *(before - after for before, after in pairwise(counts))]
    axes.barh(names, counts, color=_KEPT)
    axes.barh(names, lost, left=counts, color=_LOST, alpha=0.45)
    for row, (count, gone) in enumerate(zip(counts, lost, strict=True)):
        text = f" {count}" + (f"  (-{gone})" if gone else "")
        axes.text(count + gone, row, text, va="center", color=_INK, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, max([*counts, 1]) * 1.18)
    axes.set_xlabel("clips")
    _strip(axes)
    return _png(figure)


def histograms(panels: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> bytes:
    """One histogram a score, with its thresholds as dashed lines. `panels`: score -> (values, limits)."""
    num_columns = 3
    num_rows = max(1, -(-len(panels) // num_columns))
    figure = _figure(8.4, 1.9 * num_rows)
    grid = np.atleast_1d(figure.subplots(num_rows, num_columns)).ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (name, (values, limits)) in zip(grid, panels.items(), strict=False):
        axes.hist(values, bins=30, color=_KEPT)
        for limit in limits:
            axes.axvline(limit, color=_LIMIT, linestyle="--", linewidth=1)
        axes.set_title(name, fontsize=9, color=_INK)
        _strip(axes)
    return _png(figure)


def contact_sheet(
    tiles: Sequence[tuple[bytes, str]], num_columns: int = 6, tile_width_px: int = 160
) -> bytes:
    """JPEGs in a grid, each with one line of text below it. `tiles`: (jpeg, text)."""
    images = [_tile(decode_jpeg(jpeg), text, tile_width_px) for jpeg, text in tiles]
    if not images:
        return _encode(np.full((24, tile_width_px, 3), 255, np.uint8))
    height_px = max(image.shape[0] for image in images)
    num_columns = min(num_columns, len(images))
    num_rows = -(-len(images) // num_columns)
    sheet = np.full((num_rows * height_px, num_columns * tile_width_px, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // num_columns * height_px, i % num_columns * tile_width_px
        sheet[top : top + image.shape[0], left : left + tile_width_px] = image
    return _encode(sheet)


def _tile(image: NDArray[np.uint8], text: str, width_px: int) -> NDArray[np.uint8]:
    height_px = max(1, round(image.shape[0] * width_px / image.shape[1]))
    # A portrait tile would make every row of the sheet as tall as itself.
    height_px = min(height_px, width_px)
    picture = cv2.resize(image, (width_px - 4, height_px), interpolation=cv2.INTER_AREA)
    tile = np.full((height_px + 20, width_px, 3), 255, np.uint8)
    tile[2 : 2 + height_px, 2 : width_px - 2] = picture
    cv2.putText(
        tile,
        text[:28],
        (3, height_px + 14),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.33,
        (60, 60, 60),
        1,
        cv2.LINE_AA,
    )
    return tile


def _figure(width_in: float, height_in: float) -> Figure:
    # White, not transparent: the same picture must be legible on dark pages.
    return Figure(figsize=(width_in, height_in), dpi=100, facecolor="white", layout="constrained")


def _strip(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=_INK)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with Image.open(buffer) as image:
        return _encode(np.asarray(image.convert("RGB")), num_colours=64)


def _encode(image: NDArray[np.uint8], num_colours: int = 192) -> bytes:
    """A palette PNG: a third of the size of a true-colour one."""
    buffer = io.BytesIO()
    Image.fromarray(image).quantize(num_colours).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
