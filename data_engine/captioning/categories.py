"""What kind of thing a clip shows, told from its caption.

A category can be no better than the caption: it says what the text is about, not what the pixels show.
"""

import re
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from data_engine.caption_config import CaptionConfig
from data_engine.captioning.chat import Answer, ChatModel, ChatModelConfig, Failure, Question
from data_engine.schema import Category

OTHER = "other"
"""The name that takes what fits none of the others."""

# A bare name is ambiguous to a sentence encoder. Names that are not here speak for themselves.
_MEANINGS = {
    "people": ("a man", "a woman", "a child", "people talking", "a person's face", "a crowd"),
    "animals": ("an animal", "a dog", "a cat", "a bird", "a wild animal", "fish swimming"),
    "nature": (
        "a landscape with mountains",
        "a forest",
        "the sea and waves",
        "a flower",
        "the sky",
    ),
    "city": ("a city street", "buildings and towers", "a skyline at night", "a house", "a bridge"),
    "vehicles": ("a car on the road", "a train", "an airplane", "a boat", "a bicycle", "a truck"),
    "sports": ("people playing sports", "a football match", "an athlete", "a ski run", "surfing"),
    "food": ("food on a plate", "cooking a meal", "a cup of coffee", "fruit", "a cake"),
    "indoor": ("a room with furniture", "a kitchen", "an office", "a living room with a couch"),
    "animation": ("a cartoon", "an animated film", "a 3D rendered character", "computer animation"),
    "text/graphics": ("a title card with text", "a logo", "a chart", "credits on the screen"),
    "technology": ("a computer", "a mobile phone", "a machine", "a robot", "a rocket launch"),
}

# Up to a stop that a capital follows, so that `Dr.` or `3.5` rarely end it.
_FIRST_SENTENCE = re.compile(r".*?[.!?\u3002](?=\s+[A-Z]|\s*\Z)", re.DOTALL)

_PROMPT = (
    "Which one of these categories fits the video that this caption describes best? Categories: "
    "{names}. Answer with the name of the category and nothing else.\n\nCaption: {caption}"
)


class Categorizer(Protocol):
    """Puts each caption into one category, in order; None where none fits or nobody can tell.

    A `Failure` is transient: it may tell later.
    """

    def categorize(self, captions: Sequence[str]) -> Sequence[Category | Failure | None]: ...


class EmbeddedCategorizer:
    """Zero-shot: the category one of whose examples is nearest by sentence embedding."""

    backend = "embedded:minilm-zero-shot-v1"

    def __init__(self, names: Sequence[str], min_cosine: float) -> None:
        # Imported here: it needs torch, for which the command line must not wait.
        from data_engine.scores.minilm import MiniLM

        self._min_cosine = min_cosine
        self._sentences = MiniLM()
        self._fallback = OTHER if OTHER in names else None
        examples = [
            (name, text) for name in names if name != OTHER for text in _MEANINGS.get(name, (name,))
        ]
        self._names = [name for name, _ in examples]
        self._examples_KD = self._sentences.embed([text for _, text in examples])

    def categorize(self, captions: Sequence[str]) -> list[Category | None]:
        # The subject comes first; words on the camera or the light would draw every caption to `technology`.
        subjects = [_FIRST_SENTENCE.match(text.strip()) for text in captions]
        texts = [
            text if m is None else m.group() for m, text in zip(subjects, captions, strict=True)
        ]
        cosines_MK = self._sentences.embed(texts) @ self._examples_KD.T
        names = [
            self._names[int(np.argmax(row_K))]
            if row_K.max() >= self._min_cosine
            else self._fallback
            for row_K in cosines_MK
        ]
        return [
            None if name is None else Category(name=name, backend=self.backend) for name in names
        ]


class ChatCategorizer:
    """Asks a language model. An answer that is not one of the names counts as none."""

    def __init__(self, names: Sequence[str], model: ChatModel) -> None:
        self._names = tuple(names)
        self._model = model

    def categorize(self, captions: Sequence[str]) -> list[Category | Failure | None]:
        listed = ", ".join(self._names)
        answers = self._model.ask(
            [Question(prompt=_PROMPT.format(names=listed, caption=text)) for text in captions]
        )
        return [self._outcome(answer) for answer in answers]

    def _outcome(self, answer: Answer | Failure) -> Category | Failure | None:
        if isinstance(answer, Failure):
            return answer if answer.is_transient else None
        return self._category(answer.text)

    def _category(self, answer: str) -> Category | None:
        said = answer.strip(" \t\n.\"'*`").casefold()
        name = next((name for name in self._names if name.casefold() == said), None)
        return None if name is None else Category(name=name, backend=self._model.name)


def make_categorizer(
    config: CaptionConfig, open_model: Callable[[ChatModelConfig], ChatModel]
) -> Categorizer | None:
    """The categorizer that the configuration names; None if it names no categories.

    Raises:
        JobError: its model cannot be loaded.
    """
    categories = config.categories
    if not categories.names:
        return None
    if categories.backend == "endpoint":
        return ChatCategorizer(categories.names, open_model(config.endpoint))
    return EmbeddedCategorizer(categories.names, categories.min_cosine)
