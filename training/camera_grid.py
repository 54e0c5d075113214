"""Seven views of an object on one sheet, each under the camera that it is seen from (STIV section 5, figure 10c)."""

from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from training.streaming.decode import FramesFHWC

LABEL_HEIGHT_PX = 22
GAP_PX = 4


@dataclass(frozen=True, slots=True)
class Camera:
    """Where a view is taken from; the azimuth is relative to that of the given view."""

    elevation_deg: int
    azimuth_deg: int

    def __str__(self) -> str:
        return f"elevation {self.elevation_deg}, azimuth {self.azimuth_deg}"


CAMERAS = tuple(
    Camera(elevation, azimuth)
    for elevation, azimuth in zip((30, -20) * 3, range(30, 360, 60), strict=True)
)
"""Of the six views that are made, in their order in the clip: those of Zero123++, which the paper takes."""


def camera_grid(frames: FramesFHWC) -> Image.Image:
    """The given view in a column of its own; beside it one row for each elevation, and azimuths to the right.

    `frames` are uint8 (7, height, width, RGB), the given view first.
    """
    assert len(frames) == 1 + len(CAMERAS), "the stage makes seven views"
    height_px, width_px = frames.shape[1:3]
    step_px = (LABEL_HEIGHT_PX + height_px + GAP_PX, width_px + GAP_PX)
    elevations = sorted({camera.elevation_deg for camera in CAMERAS}, reverse=True)
    columns = 1 + len(CAMERAS) // len(elevations)
    sheet = Image.new(
        "RGB", (columns * step_px[1] - GAP_PX, len(elevations) * step_px[0] - GAP_PX), "white"
    )
    _put(sheet, frames[0], (0, 0), "given")
    for place, (camera, frame) in enumerate(zip(CAMERAS, frames[1:], strict=True)):
        row = elevations.index(camera.elevation_deg)
        column = 1 + place // len(elevations)
        _put(sheet, frame, (column * step_px[1], row * step_px[0]), str(camera))
    return sheet


def _put(sheet: Image.Image, frame: FramesFHWC, corner_px: tuple[int, int], label: str) -> None:
    left_px, top_px = corner_px
    font = ImageFont.load_default(LABEL_HEIGHT_PX * 0.6)
    ImageDraw.Draw(sheet).text((left_px + 2, top_px + 2), label, fill="black", font=font)
    sheet.paste(Image.fromarray(frame), (left_px, top_px + LABEL_HEIGHT_PX))
