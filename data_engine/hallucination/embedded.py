"""DSG-Video without a language model: a list of nouns asks, and the packaged ImageNet classifier answers.

Its limits are those of both parts. It knows about a hundred kinds of animals, vehicles, food and large things:
no people, places, actions, counts, colours or relations, and a noun that it does not know is not asked for.
The classifier names what fills a picture, so small or hidden things look absent; it is unreliable on animation,
and a word such as `bear` or `plane` is taken for the noun whatever it means. It is the classifier that the
template captioner names its subject by: of template captions it can find nothing wrong but its own doubt.
Use the figures to compare captioners over many clips, never to prove one caption wrong.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_engine.captioning.chat import Failure, Image
from data_engine.hallucination import Answers, ExistenceQuestion, JudgeRequest
from data_engine.hallucination.nouns import class_indices, nouns_in
from data_engine.scores.classifier import ImageNetClassifier

EMBEDDED_BACKEND = f"{ImageNetClassifier.backend}-nouns-v1"

PRESENT_FROM = 0.05
"""A noun is present if some crop of the frame shows it with at least this probability above chance: the many
classes of a dog add up to more than the one of a zebra where neither is seen."""
ABSENT_BELOW = 0.02
"""It is absent if all crops are below; in between there is no answer. Both limits were set by eye
on a dozen photographs and clips."""

_CROP_SHARE = 0.7
_WIDE_ASPECT = 1.5


class NounQuestionWriter:
    """One question for each known kind of thing that a caption names, however often it does."""

    def write(self, captions: Sequence[Sequence[str]]) -> list[list[ExistenceQuestion] | Failure]:
        return [_questions(sentences) for sentences in captions]


def _questions(sentences: Sequence[str]) -> list[ExistenceQuestion]:
    questions: dict[str, ExistenceQuestion] = {}
    for number, sentence in enumerate(sentences):
        for group, words in nouns_in(sentence).items():
            question = ExistenceQuestion(
                subject=group, text=f"Is there a {words} in the picture?", sentence=number
            )
            questions.setdefault(group, question)
    return list(questions.values())


class EmbeddedJudge:
    """Answers from class probabilities over overlapping crops of each frame."""

    backend = EMBEDDED_BACKEND

    def __init__(self, classifier: ImageNetClassifier) -> None:
        self._classifier = classifier

    def judge(self, requests: Sequence[JudgeRequest]) -> list[Answers | Failure]:
        return [self._answers(request) for request in requests]

    def _answers(self, request: JudgeRequest) -> Answers:
        if not request.questions:
            return []
        frames = [self._classifier.probabilities(crops(image)) for image in request.images]
        return [
            [_answer(question.subject, probabilities_NK) for probabilities_NK in frames]
            for question in request.questions
        ]


def _answer(group: str, probabilities_NK: NDArray[np.float32]) -> bool | None:
    classes = class_indices(group)
    by_chance = len(classes) / probabilities_NK.shape[1]
    surplus = float(probabilities_NK[:, classes].sum(axis=1).max()) - by_chance
    if surplus >= PRESENT_FROM:
        return True
    return False if surplus < ABSENT_BELOW else None


def crops(image_HWC: Image) -> list[Image]:
    """The picture and overlapping squares that cover it: the classifier itself looks at the middle only."""
    height_px, width_px = image_HWC.shape[:2]
    side_px = max(1, round(_CROP_SHARE * min(height_px, width_px)))
    tops = _starts(height_px, side_px, height_px > _WIDE_ASPECT * width_px)
    lefts = _starts(width_px, side_px, width_px > _WIDE_ASPECT * height_px)
    squares = [image_HWC[y : y + side_px, x : x + side_px] for y in tops for x in lefts]
    return [image_HWC, *squares]


def _starts(length_px: int, side_px: int, is_long: bool) -> list[int]:
    count = 3 if is_long else 2
    return [round(i * (length_px - side_px) / (count - 1)) for i in range(count)]
