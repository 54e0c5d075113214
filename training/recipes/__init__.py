"""Whole runs by name, as functions that return a resolved config.

`demo_tiny` is the run of the demo. The others are those of the paper at five scales: KIND_SCALE_PIXELS, such as
`stiv_xl_512`; `scales` has the numbers, `stages` the stages, `paper` how they follow on each other.
"""

from collections.abc import Callable
from functools import partial

from training.config import TrainConfig
from training.recipes import paper
from training.recipes.demo import demo_tiny
from training.recipes.scales import scales

__all__ = ["RECIPES", "demo_tiny"]

_KINDS: tuple[Callable[..., TrainConfig], ...] = (
    paper.stiv_low,
    paper.stiv_high,
    paper.fine_tuned,
    paper.long_clips,
    paper.prediction,
    paper.upsampling,
    paper.long_video,
    paper.multi_view,
    paper.class_to_video,
)

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "demo_tiny": demo_tiny,
    **{kind(scale).name: partial(kind, scale) for scale in scales().values() for kind in _KINDS},
}
