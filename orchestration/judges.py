"""The networks of an evaluation by their names. Here, since the embedded ones belong to the data engine."""

from collections.abc import Sequence

from data_engine.scores.classifier import ImageNetClassifier
from data_engine.scores.similarity import ConSE, OpenCLIP
from training.errors import EvaluationError
from training.evaluation.evaluate import Judges
from training.evaluation.features import PooledFrameFeatures, VideoFeatures, open_features

EMBEDDED = "embedded"


def open_judges(features: Sequence[str], clip_model: str | None) -> Judges:
    """`features` as `open_features` takes them, or `embedded`; `clip_model` is MODEL/WEIGHTS of open_clip.

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
    if clip_model is None:
        return Judges(features=tuple(opened), similarity=ConSE(classifier))
    model, _, weights = clip_model.partition("/")
    if not weights:
        raise EvaluationError(
            f"--clip {clip_model} is not MODEL/WEIGHTS, for example ViT-L-14/openai"
        )
    return Judges(features=tuple(opened), similarity=OpenCLIP(model, weights))
