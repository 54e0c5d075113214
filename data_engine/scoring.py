"""Scorers that look at the kept frames of a clip. Each may give several scores, texts and an embedding.

What a scorer said is stored with its version; adding or changing one computes only that one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data_engine.config import LabelConfig, LabelScorerName, ScoreConfig
from data_engine.schema import Score
from data_engine.scores import pixels
from data_engine.scores.aesthetic import AestheticHead
from data_engine.scores.brisque import Brisque
from data_engine.scores.classifier import ImageNetClassifier
from data_engine.scores.image_labels import LabelScorer, check_label_scorer, label_backend
from data_engine.scores.similarity import (
    OpenCLIP,
    open_clip_backend,
    open_clip_checkpoint,
    unit_rows,
)
from data_engine.scores.text_area import TextArea

Images = Sequence[NDArray[np.uint8]]
"""The kept frames of one clip, HxWx3 RGB, first to last."""

# Text detection costs most of this step; overlays stay for long, so one frame a second of clip is plenty.
_MAX_TEXT_FRAMES = 2


@dataclass(frozen=True, slots=True)
class FrameScores:
    """What one scorer said of one clip. A score that it has no answer for is absent."""

    scores: dict[str, Score] = field(default_factory=dict[str, Score])
    texts: tuple[str, ...] = ()
    """What was read in the frames."""
    embedding_D: NDArray[np.float32] | None = None
    """Mean of the frame features, of unit length."""


def embedding_version(config: ScoreConfig) -> str:
    """What makes the frame features of this configuration."""
    if config.embedding == "lite0":
        return ImageNetClassifier.backend
    return open_clip_backend(config.open_clip_model, config.open_clip_pretrained)


def scorer_versions(config: ScoreConfig) -> dict[str, str]:
    """Every scorer of this configuration and its version, without loading a model."""
    clip = open_clip_backend(config.open_clip_model, config.open_clip_pretrained)
    head = Path(config.aesthetic_head)
    versions = {
        "quality": f"{Brisque.backend}+{pixels.TECHNICAL_QUALITY_BACKEND}",
        "text": f"{TextArea.backend}+places-v1",
        "embedding": embedding_version(config),
        "aesthetic": f"{clip}+{AestheticHead(head).backend}"
        if "aesthetic" in config.frame_scorers
        else "",
        **{n: label_backend(*_which(chosen)) for n, chosen in config.label_scorers.items()},
    }
    return {name: versions[name] for name in config.frame_scorers}


def check_scorers(config: ScoreConfig) -> None:
    """Fetch the weights that the workers will load, once and before the first of them starts.

    Raises:
        JobError: a model is unknown, its weights cannot be had, or it has no such label.
    """
    for chosen in config.label_scorers.values():
        check_label_scorer(*_which(chosen))
    if "aesthetic" in config.frame_scorers:
        AestheticHead(Path(config.aesthetic_head))
    needs_clip = "aesthetic" in config.frame_scorers or config.embedding == "open_clip"
    if needs_clip or config.similarity == "open_clip":
        open_clip_checkpoint(config.open_clip_model, config.open_clip_pretrained)


class FrameScorers:
    """Loads each model when it is first needed, and shares it; afterwards scores clips."""

    def __init__(self, config: ScoreConfig) -> None:
        cv2.setNumThreads(1)
        self._config = config
        self._scorers: dict[str, Callable[[Images], FrameScores]] = {
            "quality": self._quality,
            "text": self._text,
            "embedding": self._embedding,
            "aesthetic": self._aesthetic,
            "nsfw": lambda images: self._most_likely("nsfw", images),
            "watermark": lambda images: self._most_likely("watermark", images),
            "iqa": self._learned_quality,
        }
        self._label_scorers: dict[LabelScorerName, LabelScorer] = {}

    def score(self, scorer: str, images: Images) -> FrameScores:
        """What one scorer says of a clip. A clip without frames gets no score."""
        return self._scorers[scorer](images) if images else FrameScores()

    def similarity(self, one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
        """The cosine of the embeddings of two images, HxWx3 RGB."""
        rows_2D, _ = self._embed([one, other])
        return float(rows_2D[0] @ rows_2D[1])

    def _quality(self, images: Images) -> FrameScores:
        middle = images[len(images) // 2]
        brisque = self._brisque.score(middle)
        if brisque is None:
            return FrameScores()
        quality = pixels.technical_quality(middle, brisque)
        return FrameScores(
            {
                "brisque": Score(value=brisque, backend=Brisque.backend),
                "technical_quality": Score(value=quality, backend=pixels.TECHNICAL_QUALITY_BACKEND),
            }
        )

    def _text(self, images: Images) -> FrameScores:
        found = [self._text_area.read(image) for image in _spread(images, _MAX_TEXT_FRAMES)]
        values = {
            "text_area": max(frame.area_fraction for frame in found),
            "text_area_edges": max(frame.edge_fraction for frame in found),
            "text_area_corners": max(frame.corner_fraction for frame in found),
        }
        scores = {n: Score(value=v, backend=TextArea.backend) for n, v in values.items()}
        return FrameScores(scores, tuple(dict.fromkeys(t for frame in found for t in frame.texts)))

    def _embedding(self, images: Images) -> FrameScores:
        rows_ND, backend = self._embed(images)
        mean_D = unit_rows(rows_ND.mean(axis=0, keepdims=True))[0]
        if len(images) == 1:
            return FrameScores(embedding_D=mean_D)
        # Of a missed cut, the frames at both sides differ; the least of all pairs shows it.
        least = float((rows_ND @ rows_ND.T).min())
        return FrameScores({"consistency": Score(value=least, backend=backend)}, embedding_D=mean_D)

    def _aesthetic(self, images: Images) -> FrameScores:
        value = self._head.score(self._open_clip.embed_images(images))
        backend = f"{self._open_clip.backend}+{self._head.backend}"
        return FrameScores({"aesthetic": Score(value=value, backend=backend)})

    def _most_likely(self, name: LabelScorerName, images: Images) -> FrameScores:
        """One frame is enough for the clip to have it."""
        scorer = self._label_scorer(name)
        value = float(scorer.probabilities(images).max())
        return FrameScores({name: Score(value=value, backend=scorer.backend)})

    def _learned_quality(self, images: Images) -> FrameScores:
        scorer = self._label_scorer("iqa")
        value = float(scorer.probabilities(images).mean())
        return FrameScores({"learned_quality": Score(value=value, backend=scorer.backend)})

    def _label_scorer(self, name: LabelScorerName) -> LabelScorer:
        if name not in self._label_scorers:
            chosen = self._config.label_scorers[name]
            self._label_scorers[name] = LabelScorer(*_which(chosen))
        return self._label_scorers[name]

    def _embed(self, images: Images) -> tuple[NDArray[np.float32], str]:
        if self._config.embedding == "open_clip":
            return self._open_clip.embed_images(images), self._open_clip.backend
        return unit_rows(self._classifier.features(images)), ImageNetClassifier.backend

    @cached_property
    def _brisque(self) -> Brisque:
        return Brisque()

    @cached_property
    def _text_area(self) -> TextArea:
        return TextArea()

    @cached_property
    def _classifier(self) -> ImageNetClassifier:
        return ImageNetClassifier()

    @cached_property
    def _open_clip(self) -> OpenCLIP:
        return OpenCLIP(self._config.open_clip_model, self._config.open_clip_pretrained)

    @cached_property
    def _head(self) -> AestheticHead:
        return AestheticHead(Path(self._config.aesthetic_head))


def _which(config: LabelConfig) -> tuple[str, str | None, str]:
    assert config.model is not None, "the configuration was checked when it was made"
    assert config.label is not None, "the configuration was checked when it was made"
    return config.model, config.revision, config.label


def _spread(images: Images, count: int) -> list[NDArray[np.uint8]]:
    """At most `count` images, evenly from the first to the last."""
    if len(images) <= count:
        return list(images)
    return [images[round(i * (len(images) - 1) / (count - 1))] for i in range(count)]
