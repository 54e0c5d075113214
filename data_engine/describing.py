"""Captions for clips, and how well each agrees with the frames it describes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_engine.captioning import CAPTIONERS, CaptionRequest
from data_engine.config import CaptionConfig, ScoreConfig
from data_engine.schema import Caption, ClipRecord, Score
from data_engine.scores.classifier import ImageNetClassifier
from data_engine.scores.motion import camera_motion
from data_engine.scores.similarity import (
    SIMILARITY_BACKENDS,
    mean_cosine,
    open_clip_checkpoint,
)


@dataclass(frozen=True, slots=True)
class ClipFrames:
    """A clip with its kept frames (HxWx3 RGB, first to last) and the text that was read in them."""

    record: ClipRecord
    images: list[NDArray[np.uint8]]
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Description:
    clip_id: str
    caption: Caption
    similarity_name: str
    similarity: Score


def check_models(scores: ScoreConfig) -> None:
    """Fetch the weights that the workers will load, once and before the first of them starts.

    Raises:
        JobError: a model is unknown, or its weights cannot be had.
    """
    if scores.similarity == "open_clip":
        open_clip_checkpoint(scores.open_clip_model, scores.open_clip_pretrained)


class Describer:
    """Loads the captioner and the image-text backend once; afterwards describes clips."""

    def __init__(self, captions: CaptionConfig, scores: ScoreConfig) -> None:
        classifier = ImageNetClassifier()
        self._captioner = CAPTIONERS[captions.captioner](classifier=classifier)
        self._similarity = SIMILARITY_BACKENDS[scores.similarity](
            classifier=classifier,
            open_clip_model=scores.open_clip_model,
            open_clip_pretrained=scores.open_clip_pretrained,
        )

    def describe(self, clips: Sequence[ClipFrames]) -> list[Description]:
        """A caption for each clip, and the mean cosine between the caption and the frames."""
        captions = self._captioner.caption([_request(clip) for clip in clips])
        texts_MD = self._similarity.embed_texts([caption.text for caption in captions])
        descriptions: list[Description] = []
        for clip, caption, text_D in zip(clips, captions, texts_MD, strict=True):
            cosine = mean_cosine(self._similarity.embed_images(clip.images), text_D)
            score = Score(value=cosine, backend=self._similarity.backend)
            descriptions.append(
                Description(clip.record.clip_id, caption, self._similarity.score_name, score)
            )
        return descriptions


def _request(clip: ClipFrames) -> CaptionRequest:
    record = clip.record
    right, down, outwards = (
        record.score(f"camera_{direction}") for direction in ("right", "down", "outwards")
    )
    camera = (
        None
        if right is None or down is None or outwards is None
        else camera_motion(right, down, outwards)
    )
    return CaptionRequest(
        images=clip.images,
        motion=record.score("motion"),
        camera=camera,
        luminance=record.score("luminance"),
        texts=clip.texts,
    )
