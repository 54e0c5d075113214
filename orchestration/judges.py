"""The networks of an evaluation by their names. Here, since the embedded ones belong to the data engine."""

from collections.abc import Sequence
from pathlib import Path

from data_engine.scores.classifier import ImageNetClassifier
from data_engine.scores.similarity import ConSE, OpenCLIP
from training.errors import EvaluationError
from training.evaluation.evaluate import Judges
from training.evaluation.features import PooledFrameFeatures, VideoFeatures, open_features
from training.evaluation.perceptual import Lpips

EMBEDDED = "embedded"


def open_judges(
    features: Sequence[str], clip_model: str | None, alexnet: Path | None = None
) -> Judges:
    """`features` as `open_features` takes them, or `embedded`; `clip_model` is MODEL/WEIGHTS of open_clip; with `alexnet`,
    a file, LPIPS too.

    Raises:
        EvaluationError: a name is not known, or a file is missing.
        JobError: the model of open_clip cannot be had.
    """
    classifier = ImageNetClassifier()
    opened: list[VideoFeatures] = [
        PooledFrameFeatures(classifier.features, classifier.backend)
        if spec == EMBEDDED
        else open_features(spec)
        for spec in features
    ]
    perceptual = Lpips(alexnet) if alexnet else None
    if clip_model is None:
        similarity = ConSE(classifier)
        return Judges(features=tuple(opened), similarity=similarity, perceptual=perceptual)
    model, _, weights = clip_model.partition("/")
    if not weights:
        raise EvaluationError(
            f"--clip {clip_model} is not MODEL/WEIGHTS, for example ViT-L-14/openai"
        )
    similarity = OpenCLIP(model, weights)
    return Judges(features=tuple(opened), similarity=similarity, perceptual=perceptual)
