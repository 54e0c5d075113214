"""The sizes and lengths that a stage was trained at, and the one that is nearest to what a user wants."""

import math
from dataclasses import dataclass

from training.config import TrainConfig
from training.errors import GenerateError


@dataclass(frozen=True, slots=True)
class TrainedShape:
    """Of a clip, in pixels and frames."""

    height_px: int
    width_px: int
    num_frames: int

    def __str__(self) -> str:
        return f"{self.height_px}x{self.width_px} px, {self.num_frames} frames"


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedShape:
    """What a user asks for; None leaves it to the stage."""

    height_px: int | None = None
    width_px: int | None = None
    num_frames: int | None = None


def trained_shapes(config: TrainConfig, stage: str) -> list[TrainedShape]:
    """Every shape of the stage, the main one first."""
    counts = config.stages[stage].frame_counts
    sizes = config.data_of(stage).sizes
    return [TrainedShape(*size, count) for size in sizes for count in counts]


def nearest_shape(config: TrainConfig, stage: str, wanted: WantedShape) -> TrainedShape:
    """The trained shape whose aspect ratio, then area, then length are nearest to what is wanted.

    Raises:
        GenerateError: only one side is given, or a number is too small.
    """
    if (wanted.height_px is None) != (wanted.width_px is None):
        raise GenerateError("height and width go together: give both, or neither")
    for name, found, least in (
        ("height", wanted.height_px, 1),
        ("width", wanted.width_px, 1),
        ("num_frames", wanted.num_frames, 2),
    ):
        if found is not None and found < least:
            raise GenerateError(f"{name} is {found}, it must be at least {least}")
    return min(trained_shapes(config, stage), key=lambda shape: _distance(shape, wanted))


def explain_shape(
    config: TrainConfig, stage: str, wanted: WantedShape, taken: TrainedShape
) -> str | None:
    """One line where `taken` is not what was wanted, None where it is."""
    asked: list[str] = []
    if (wanted.height_px, wanted.width_px) not in ((None, None), (taken.height_px, taken.width_px)):
        asked.append(f"{wanted.height_px}x{wanted.width_px} px")
    if wanted.num_frames not in (None, taken.num_frames):
        asked.append(f"{wanted.num_frames} frames")
    if not asked:
        return None
    known = "; ".join(map(str, trained_shapes(config, stage)))
    return (
        f"{' and '.join(asked)} asked for; stage {stage} was trained at {known}: "
        f"the nearest, {taken}, is made"
    )


def _distance(shape: TrainedShape, wanted: WantedShape) -> tuple[float, float, float]:
    """In aspect ratio, which counts most as in training, in area and in length, each as a factor."""
    aspect = area = length = 0.0
    if wanted.height_px is not None and wanted.width_px is not None:
        rows, columns = shape.height_px / wanted.height_px, shape.width_px / wanted.width_px
        # To a hundredth, as clips are given their size in training.
        aspect, area = round(abs(math.log(rows / columns)), 2), abs(math.log(rows * columns))
    if wanted.num_frames is not None:
        length = abs(math.log(shape.num_frames / wanted.num_frames))
    return aspect, area, length
