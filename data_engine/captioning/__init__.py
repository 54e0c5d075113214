"""Captioners: what a caption is made from, and the captioners by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from data_engine.caption_config import CaptionConfig
from data_engine.captioning.chat import ChatModel, ChatModelConfig, Failure
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
    """Writes one caption for each clip, in order; a `Failure` for a clip concerns no other."""

    @property
    def is_random(self) -> bool:
        """Whether another seed can give another caption."""
        ...

    def caption(
        self, requests: Sequence[CaptionRequest], seed: int = 0
    ) -> list[Caption | Failure]: ...


class CaptionerFactory(Protocol):
    """Makes a captioner; called in the worker that will use it. Each takes what it needs."""

    def __call__(
        self,
        config: CaptionConfig,
        *,
        classifier: "ImageNetClassifier",
        open_model: Callable[[ChatModelConfig], ChatModel],
    ) -> Captioner: ...


def _make_template(
    config: CaptionConfig,
    *,
    classifier: "ImageNetClassifier",
    open_model: Callable[[ChatModelConfig], ChatModel],
) -> Captioner:
    from data_engine.captioning.template import TemplateCaptioner

    return TemplateCaptioner(classifier=classifier)


def _make_vlm(
    config: CaptionConfig,
    *,
    classifier: "ImageNetClassifier",
    open_model: Callable[[ChatModelConfig], ChatModel],
) -> Captioner:
    from data_engine.captioning.direct import DirectCaptioner

    return DirectCaptioner(
        open_model(config.vlm), source="vlm", prompt=config.prompt, num_frames=config.num_frames
    )


def _make_endpoint(
    config: CaptionConfig,
    *,
    classifier: "ImageNetClassifier",
    open_model: Callable[[ChatModelConfig], ChatModel],
) -> Captioner:
    from data_engine.captioning.direct import DirectCaptioner

    return DirectCaptioner(
        open_model(config.endpoint),
        source="endpoint",
        prompt=config.prompt,
        num_frames=config.num_frames,
    )


def _make_frames_then_merge(
    config: CaptionConfig,
    *,
    classifier: "ImageNetClassifier",
    open_model: Callable[[ChatModelConfig], ChatModel],
) -> Captioner:
    from data_engine.captioning.frames_then_merge import FramesThenMerge

    return FramesThenMerge(
        open_model(config.model_of(config.frames_by)),
        open_model(config.model_of(config.merged_by)),
        frame_prompt=config.frame_prompt,
        merge_prompt=config.merge_prompt,
        num_frames=config.num_frames,
    )


CAPTIONERS: dict[str, CaptionerFactory] = {
    "template": _make_template,
    "vlm": _make_vlm,
    "endpoint": _make_endpoint,
    "frames_then_merge": _make_frames_then_merge,
}
"""The captioners by the name that the configuration uses."""
