"""Pictures of a curation run, as PNG bytes small enough to store with a run."""

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from data_engine.container import decode_jpeg, encode_jpeg

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
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _strip(axes)
    return _png(figure)


def histograms(
    panels: Mapping[str, tuple[Sequence[float], Sequence[str], Sequence[float]]],
) -> bytes:
    """One histogram a score. `panels`: score -> (values, what is kept in words, limits).

    The axis spans the middle 98% of the values, so that a few extreme ones do not hide the others; limits within
    it are dashed lines.
    """
    num_columns = 3
    num_rows = max(1, -(-len(panels) // num_columns))
    figure = _figure(8.4, 2.1 * num_rows)
    # Else a title touches the numbers of the panel above.
    figure.set_layout_engine("constrained", h_pad=0.09)
    grid = np.atleast_1d(figure.subplots(num_rows, num_columns)).ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (name, (values, kept, limits)) in zip(grid, panels.items(), strict=False):
        low, high = (float(end) for end in np.percentile(values, (1, 99)))
        axes.hist(values, bins=30, range=(low, high) if high > low else None, color=_KEPT)
        for limit in limits:
            if low <= limit <= high:
                axes.axvline(limit, color=_LIMIT, linestyle="--", linewidth=1)
        axes.set_title(" ".join([name, *kept]), fontsize=9, color=_INK)
        _strip(axes)
    return _png(figure)


def contact_sheet(
    tiles: Sequence[tuple[bytes, str]], num_columns: int = 6, tile_width_px: int = 160
) -> bytes:
    """JPEGs in a grid, each with one line of text below it, as a JPEG. `tiles`: (jpeg, text)."""
    images = [_tile(decode_jpeg(jpeg), text, tile_width_px) for jpeg, text in tiles]
    if not images:
        return encode_jpeg(np.full((24, tile_width_px, 3), 255, np.uint8))
    blank = np.full_like(images[0], 255)
    num_columns = min(num_columns, len(images))
    images += [blank] * (-len(images) % num_columns)
    rows = [np.hstack(images[i : i + num_columns]) for i in range(0, len(images), num_columns)]
    return encode_jpeg(np.vstack(rows), quality=80)


def _tile(image: NDArray[np.uint8], text: str, width_px: int) -> NDArray[np.uint8]:
    """The picture fitted into a 16:9 box with a margin, and the text below."""
    box_height_px, box_width_px = round(width_px * 9 / 16), width_px - 4
    scale = min(box_height_px / image.shape[0], box_width_px / image.shape[1])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    tile = np.full((box_height_px + 22, width_px, 3), 255, np.uint8)
    top, left = 2 + (box_height_px - size[1]) // 2, 2 + (box_width_px - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = picture
    place = (3, box_height_px + 15)
    cv2.putText(
        tile, text[:28], place, cv2.FONT_HERSHEY_SIMPLEX, 0.35, (60, 60, 60), 1, cv2.LINE_AA
    )
    return tile


def _figure(width_in: float, height_in: float) -> Figure:
    # White, not transparent: the same picture must be legible on dark pages.
    return Figure(figsize=(width_in, height_in), dpi=100, facecolor="white", layout="constrained")


def _strip(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=_INK)


def _png(figure: Figure) -> bytes:
    """A palette PNG: a third of the size of a true-colour one."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(64).save(packed, format="PNG", optimize=True)
    return packed.getvalue()
