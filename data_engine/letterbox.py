"""Constant black bars around the picture of a clip, as they appear in films on screens of another shape.

Each frame says where its picture could begin. Bars are what is dark in all frames of a clip, if just inside of them
there is picture along much of their edges: a night sky has no straight edge. Bars come in pairs; subtitles inside
one hide the pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_engine.schema import Crop

# No pixel of a bar is brighter (0 to 255): compressed black is not quite black.
_MAX_BAR_LUMA = 28
# Of the picture, a pixel is surely no bar if it is brighter in one frame at least; and so much of the edge must be.
_MIN_PICTURE_LUMA = 40
_MIN_EDGE_SHARE = 0.4
# Thinner bars, in parts of the height or width, are not worth a crop.
_MIN_BAR_SHARE = 0.01
# A frame so dark that less than this share of it is inside its margins says nothing.
_MIN_INSIDE_SHARE = 0.25
_MIN_FRAMES = 2


@dataclass(frozen=True, slots=True)
class Margins:
    """How many rows and columns at each side of a frame are dark, in its pixels."""

    top: int
    bottom: int
    left: int
    right: int

    def any(self) -> bool:
        return bool(self.top or self.bottom or self.left or self.right)


def dark_margins(gray: NDArray[np.uint8]) -> Margins | None:
    """The dark margins of an HxW image; None if the image is too dark to tell."""
    rows = np.flatnonzero(gray.max(axis=1) > _MAX_BAR_LUMA)
    columns = np.flatnonzero(gray.max(axis=0) > _MAX_BAR_LUMA)
    if not len(rows) or not len(columns):
        return None
    height_px, width_px = gray.shape
    top, left = int(rows[0]), int(columns[0])
    bottom, right = height_px - 1 - int(rows[-1]), width_px - 1 - int(columns[-1])
    inside = (height_px - top - bottom) * (width_px - left - right)
    if inside < _MIN_INSIDE_SHARE * height_px * width_px:
        return None
    return Margins(top, bottom, left, right)


def common_margins(margins: Sequence[Margins | None], size: tuple[int, int]) -> Margins | None:
    """What is dark in every frame of a clip that can tell; None if that is too little to be bars.

    `size`: height and width of the frames. Fewer than two frames decide nothing.
    """
    telling = [found for found in margins if found is not None]
    if len(telling) < _MIN_FRAMES:
        return None
    height_px, width_px = size
    top, bottom = min(m.top for m in telling), min(m.bottom for m in telling)
    left, right = min(m.left for m in telling), min(m.right for m in telling)
    found = Margins(
        top if top > _MIN_BAR_SHARE * height_px else 0,
        bottom if bottom > _MIN_BAR_SHARE * height_px else 0,
        left if left > _MIN_BAR_SHARE * width_px else 0,
        right if right > _MIN_BAR_SHARE * width_px else 0,
    )
    return found if found.any() else None


def bars(margins: Margins, frames_gray: Sequence[NDArray[np.uint8]]) -> Margins | None:
    """The margins at opposite sides with picture along their inner edges in these frames (HxW), if there are any."""
    brightest = np.maximum.reduce(list(frames_gray))
    height_px, width_px = brightest.shape
    inside = brightest[
        margins.top : height_px - margins.bottom, margins.left : width_px - margins.right
    ]
    if min(inside.shape) < 4:
        return None
    # The second line: the first is half bar where the edge lies between two pixels. Bars come in pairs; a dark sky
    # or a wall beside a lit one does not.
    has_rows = _is_picture(inside[1]) and _is_picture(inside[-2])
    has_columns = _is_picture(inside[:, 1]) and _is_picture(inside[:, -2])
    has_rows &= margins.top > 0 and margins.bottom > 0
    has_columns &= margins.left > 0 and margins.right > 0
    found = Margins(
        margins.top if has_rows else 0,
        margins.bottom if has_rows else 0,
        margins.left if has_columns else 0,
        margins.right if has_columns else 0,
    )
    return found if found.any() else None


def crop_of(bars: Margins, frame_size: tuple[int, int], source_size: tuple[int, int]) -> Crop:
    """The picture inside bars as a rectangle of the source. Sizes are height and width.

    Where the frame is smaller than the source the edge is known to a pixel of the frame: the crop errs inwards,
    so that it holds no line of a bar. All its figures are even, as video encoders want them.
    """
    (height_px, width_px), (full_height_px, full_width_px) = frame_size, source_size
    top = _inwards(bars.top, full_height_px / height_px)
    bottom = _inwards(bars.bottom, full_height_px / height_px)
    left = _inwards(bars.left, full_width_px / width_px)
    right = _inwards(bars.right, full_width_px / width_px)
    return Crop(
        left_px=left,
        top_px=top,
        width_px=(full_width_px - left - right) // 2 * 2,
        height_px=(full_height_px - top - bottom) // 2 * 2,
    )


def inside(image: NDArray[np.uint8], bars: Margins) -> NDArray[np.uint8]:
    """An HxW or HxWxC image without its bars."""
    height_px, width_px = image.shape[:2]
    return image[bars.top : height_px - bars.bottom, bars.left : width_px - bars.right]


def without_bars(
    image: NDArray[np.uint8], crop: Crop, source_size: tuple[int, int]
) -> NDArray[np.uint8]:
    """The part of a frame at any size (HxWxC) that `crop` leaves of a source of this height and width."""
    down, across = image.shape[0] / source_size[0], image.shape[1] / source_size[1]
    top, left = int(np.ceil(crop.top_px * down)), int(np.ceil(crop.left_px * across))
    bottom = int((crop.top_px + crop.height_px) * down)
    right = int((crop.left_px + crop.width_px) * across)
    return np.ascontiguousarray(image[top:bottom, left:right])


def _is_picture(line: NDArray[np.uint8]) -> bool:
    return float((line > _MIN_PICTURE_LUMA).mean()) >= _MIN_EDGE_SHARE


def _inwards(margin: int, scale: float) -> int:
    if margin == 0:
        return 0
    exact = margin * scale if scale <= 1 else (margin + 1) * scale
    return int(np.ceil(exact / 2)) * 2
