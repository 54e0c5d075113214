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
    in_one_go,
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
    clip = open_clip_backend(config.aesthetic_model, config.aesthetic_pretrained)
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
        open_clip_checkpoint(config.aesthetic_model, config.aesthetic_pretrained)
    if "open_clip" in (config.embedding, config.similarity):
        open_clip_checkpoint(config.open_clip_model, config.open_clip_pretrained)


class FrameScorers:
    """Loads each model when it is first needed, and shares it; afterwards scores clips."""

    def __init__(self, config: ScoreConfig) -> None:
        cv2.setNumThreads(1)
        self._config = config
        self._scorers: dict[str, Callable[[Sequence[Images]], list[FrameScores]]] = {
            "quality": lambda clips: [self._quality(images) for images in clips],
            "text": lambda clips: [self._text(images) for images in clips],
            "embedding": self._embedding,
            "aesthetic": self._aesthetic,
            "nsfw": lambda clips: self._most_likely("nsfw", clips),
            "watermark": lambda clips: self._most_likely("watermark", clips),
            "iqa": self._learned_quality,
        }
        self._open_clips: dict[tuple[str, str], OpenCLIP] = {}
        self._label_scorers: dict[LabelScorerName, LabelScorer] = {}

    def score(self, scorer: str, clips: Sequence[Images]) -> list[FrameScores]:
        """What one scorer says of each clip, in order; models of a hub see the frames of all of them at once.

        A clip without frames gets no score.
        """
        shown = [images for images in clips if images]
        found = iter(self._scorers[scorer](shown) if shown else ())
        return [next(found) if images else FrameScores() for images in clips]

    def similarity(self, one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
        """The cosine of the embeddings of two images, HxWx3 RGB."""
        ((rows_2D,), _) = self._embed([[one, other]])
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

    def _embedding(self, clips: Sequence[Images]) -> list[FrameScores]:
        rows, backend = self._embed(clips)
        return [_consistency(rows_ND, backend) for rows_ND in rows]

    def _aesthetic(self, clips: Sequence[Images]) -> list[FrameScores]:
        model = self._open_clip(self._config.aesthetic_model, self._config.aesthetic_pretrained)
        backend = f"{model.backend}+{self._head.backend}"
        values = (self._head.score(rows_ND) for rows_ND in model.embed_clips(clips))
        return [FrameScores({"aesthetic": Score(value=v, backend=backend)}) for v in values]

    def _most_likely(self, name: LabelScorerName, clips: Sequence[Images]) -> list[FrameScores]:
        """One frame is enough for the clip to have it."""
        scorer = self._label_scorer(name)
        values = (float(found_N.max()) for found_N in in_one_go(scorer.probabilities, clips))
        return [FrameScores({name: Score(value=v, backend=scorer.backend)}) for v in values]

    def _learned_quality(self, clips: Sequence[Images]) -> list[FrameScores]:
        scorer = self._label_scorer("iqa")
        values = (float(found_N.mean()) for found_N in in_one_go(scorer.probabilities, clips))
        backend = scorer.backend
        return [FrameScores({"learned_quality": Score(value=v, backend=backend)}) for v in values]

    def _label_scorer(self, name: LabelScorerName) -> LabelScorer:
        if name not in self._label_scorers:
            chosen = self._config.label_scorers[name]
            self._label_scorers[name] = LabelScorer(*_which(chosen))
        return self._label_scorers[name]

    def _embed(self, clips: Sequence[Images]) -> tuple[list[NDArray[np.float32]], str]:
        """N x D for each clip of N frames, and what made them."""
        if self._config.embedding == "open_clip":
            config = self._config
            model = self._open_clip(config.open_clip_model, config.open_clip_pretrained)
            return model.embed_clips(clips), model.backend
        rows = [unit_rows(self._classifier.features(images)) for images in clips]
        return rows, ImageNetClassifier.backend

    def _open_clip(self, model: str, pretrained: str) -> OpenCLIP:
        if (model, pretrained) not in self._open_clips:
            self._open_clips[model, pretrained] = OpenCLIP(model, pretrained)
        return self._open_clips[model, pretrained]

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
    def _head(self) -> AestheticHead:
        return AestheticHead(Path(self._config.aesthetic_head))


def _consistency(rows_ND: NDArray[np.float32], backend: str) -> FrameScores:
    mean_D = unit_rows(rows_ND.mean(axis=0, keepdims=True))[0]
    if len(rows_ND) == 1:
        return FrameScores(embedding_D=mean_D)
    # Of a missed cut, the frames at both sides differ; the least of all pairs shows it.
    least = float((rows_ND @ rows_ND.T).min())
    return FrameScores({"consistency": Score(value=least, backend=backend)}, embedding_D=mean_D)


def _which(config: LabelConfig) -> tuple[str, str | None, str]:
    assert config.model is not None, "the configuration was checked when it was made"
    assert config.label is not None, "the configuration was checked when it was made"
    return config.model, config.revision, config.label


def _spread(images: Images, count: int) -> list[NDArray[np.uint8]]:
    """At most `count` images, evenly from the first to the last."""
    if len(images) <= count:
        return list(images)
    return [images[round(i * (len(images) - 1) / (count - 1))] for i in range(count)]
