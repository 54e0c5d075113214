"""Quality, Semantic and Total of VBench from its dimensions, and Quality, I2V and Total of VBench-I2V.

The constants are those that the authors publish in `scripts/constant.py` of their repository.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from training.errors import EvaluationError

QUALITY = (
    "subject_consistency",
    "background_consistency",
    "temporal_flickering",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
)
SEMANTIC = (
    "object_class",
    "multiple_objects",
    "human_action",
    "color",
    "spatial_relationship",
    "scene",
    "appearance_style",
    "temporal_style",
    "overall_consistency",
)
DIMENSIONS = QUALITY + SEMANTIC
I2V = ("i2v_subject", "i2v_background")
CAMERA_MOTION = "camera_motion"

_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "subject_consistency": (0.1462, 1.0),
        "background_consistency": (0.2615, 1.0),
        "temporal_flickering": (0.6293, 1.0),
        "motion_smoothness": (0.706, 0.9975),
        "scene": (0.0, 0.8222),
        "appearance_style": (0.0009, 0.2855),
        "temporal_style": (0.0, 0.364),
        "overall_consistency": (0.0, 0.364),
        "i2v_subject": (0.1462, 1.0),
        "i2v_background": (0.2615, 1.0),
    }
)
"""Least and greatest value that the authors found; 0 and 1 where none is named."""
_WEIGHTS: Mapping[str, float] = MappingProxyType({"dynamic_degree": 0.5})
"""1 where none is named."""
_QUALITY_WEIGHT, _SEMANTIC_WEIGHT = 4.0, 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class VBenchScores:
    """From 0 to 1, as VBench writes them; the paper prints them times 100."""

    quality: float
    semantic: float
    total: float


@dataclass(frozen=True, kw_only=True, slots=True)
class VBenchI2VScores:
    """From 0 to 1. Quality holds temporal flickering, I2V leaves out camera motion, as in the paper's table 10."""

    quality: float
    i2v: float
    total: float


def vbench_scores(dimensions: Mapping[str, float]) -> VBenchScores:
    """All sixteen dimensions (0 to 1) to the three scores of the paper's table 9.

    Raises:
        EvaluationError: a dimension is missing or outside 0 to 1.
    """
    quality, semantic = _mean(dimensions, QUALITY), _mean(dimensions, SEMANTIC)
    weighted = _QUALITY_WEIGHT * quality + _SEMANTIC_WEIGHT * semantic
    total = weighted / (_QUALITY_WEIGHT + _SEMANTIC_WEIGHT)
    return VBenchScores(quality=quality, semantic=semantic, total=total)


def vbench_i2v_scores(dimensions: Mapping[str, float]) -> VBenchI2VScores:
    """The seven dimensions of quality and the two of the image to the scores of the paper's table 10.

    The authors' later constants differ: camera motion with weight 0.1, no temporal flickering. Those of
    the paper's time are kept, or no number could be compared with its own.

    Raises:
        EvaluationError: a dimension is missing or outside 0 to 1.
    """
    quality, i2v = _mean(dimensions, QUALITY), _mean(dimensions, I2V)
    return VBenchI2VScores(quality=quality, i2v=i2v, total=(quality + i2v) / 2)


def _mean(dimensions: Mapping[str, float], names: tuple[str, ...]) -> float:
    missing = [name for name in names if name not in dimensions]
    if missing:
        raise EvaluationError(
            f"VBench dimensions {', '.join(missing)} are missing; evaluate them too, no score is made of a part"
        )
    beyond = [name for name in names if not 0 <= dimensions[name] <= 1]
    if beyond:
        raise EvaluationError(
            f"VBench dimensions {', '.join(beyond)} are not between 0 and 1; divide per cents by 100"
        )
    weights = [_WEIGHTS.get(name, 1.0) for name in names]
    values = [_normalized(name, dimensions[name]) for name in names]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def _normalized(name: str, value: float) -> float:
    low, high = _RANGES.get(name, (0.0, 1.0))
    return (value - low) / (high - low)
