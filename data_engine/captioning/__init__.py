"""Captioners: what a caption is made from, and the captioners by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from data_engine.schema import Caption

if TYPE_CHECKING:
    from data_engine.scores.classifier import ImageNetClassifier


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionRequest:
    """One clip to describe. What was not measured is None or empty, and is not mentioned."""

    images: Sequence[NDArray[np.uint8]]
    """RGB pictures, H x W x 3, in order of time: normally the first, the middle and the last."""
    motion: float | None = None
    """Median optical flow in frame diagonals a second."""
    camera: str | None = None
    """How the camera moves, such as `static` or `panning left`."""
    luminance: float | None = None
    """Mean luma, 0 to 1."""
    texts: tuple[str, ...] = ()
    """Text that was read in the pictures."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("a caption needs at least one picture of the clip, got none")


class Captioner(Protocol):
    """Writes one caption for each clip, in order."""

    def caption(self, requests: Sequence[CaptionRequest]) -> list[Caption]: ...


class CaptionerFactory(Protocol):
    """Makes a captioner; called in the worker that will use it."""

    def __call__(self, *, classifier: "ImageNetClassifier") -> Captioner: ...


def _make_template(*, classifier: "ImageNetClassifier") -> Captioner:
    from data_engine.captioning.template import TemplateCaptioner

    return TemplateCaptioner(classifier=classifier)


CAPTIONERS: dict[str, CaptionerFactory] = {"template": _make_template}
"""The captioners by the name that the configuration uses."""
