"""Captions put together from what the scorers measured, without a language model.

The same clip always gets the same text.
"""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from data_engine.captioning import CaptionRequest
from data_engine.captioning.chat import Failure
from data_engine.schema import Caption
from data_engine.scores.classifier import ImageNetClassifier

MIN_LABEL_PROBABILITY = 0.25
"""A class is named only above this mean probability over the pictures."""
MIN_COLOUR_SHARE = 0.15
"""A second colour is named only above this share of the pixels."""
MAX_TEXT_WORDS = 6

_COLOUR_SAMPLE_PX = (48, 27)
_UNCLEAR_SUBJECT = "a scene"

# Upper limits, and what is said below them; the last one has no limit.
_MOTION_WORDS = (
    (0.01, "almost no movement"),
    (0.05, "little movement"),
    (0.2, "moderate movement"),
    (float("inf"), "fast movement"),
)
_LUMINANCE_WORDS = (
    (0.15, "very dark"),
    (0.3, "dimly lit"),
    (0.5, "evenly lit"),
    (0.7, "brightly lit"),
    (float("inf"), "very bright"),
)
# Hue in degrees; red closes the circle.
_HUE_WORDS = (
    (15, "red"),
    (45, "orange"),
    (70, "yellow"),
    (160, "green"),
    (195, "teal"),
    (255, "blue"),
    (290, "purple"),
    (340, "pink"),
    (360, "red"),
)
# Plural and uncountable class names, which take no article.
_WITHOUT_ARTICLE = frozenset(
    (
        *("binoculars", "clogs", "jeans", "pajamas", "parallel bars", "sunglasses"),
        *("swim trunks", "mashed potatoes", "chain mail", "toilet paper", "velvet fabric", "wool"),
        *("dough", "corn", "hay", "guacamole", "carbonara", "consomme", "broccoli", "rapeseed"),
        *("red wine", "eggnog", "chocolate syrup", "perfume", "lotion", "sunscreen"),
        *("face powder", "hair spray"),
    )
)
_COLOURS = (
    *("black", "gray", "white", "brown"),
    *("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink"),
)


def colour_shares(images: Iterable[NDArray[np.uint8]]) -> dict[str, float]:
    """The share of the pixels of RGB pictures that bears each colour name, largest first.

    Every picture counts the same, whatever its size.
    """
    counts = np.zeros(len(_COLOURS))
    for image_HWC in images:
        small = cv2.resize(
            np.ascontiguousarray(image_HWC), _COLOUR_SAMPLE_PX, interpolation=cv2.INTER_AREA
        )
        names = _colour_indices(np.asarray(small, dtype=np.uint8))
        counts += np.bincount(names.ravel(), minlength=len(_COLOURS))
    shares = counts / counts.sum()
    order = np.argsort(-shares, kind="stable")
    return {_COLOURS[index]: float(shares[index]) for index in order}


def _colour_indices(image_HWC: NDArray[np.uint8]) -> NDArray[np.intp]:
    """The index in `_COLOURS` of the name of each pixel."""
    hsv = cv2.cvtColor(image_HWC.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hue, saturation, value = hsv[:, :, 0], hsv[:, :, 1], hsv[:, :, 2]
    limits = [limit for limit, _ in _HUE_WORDS[:-1]]
    by_hue = np.array([_COLOURS.index(name) for _, name in _HUE_WORDS])
    names = by_hue[np.searchsorted(limits, hue, side="right")]
    is_dull = saturation < 0.18
    # Brown is dark orange, or dark red that is not vivid.
    is_orange = (hue >= 15) & (hue < 50)
    is_pale_red = ((hue < 15) | (hue >= 340)) & (saturation < 0.6)
    names[(is_orange | is_pale_red) & (value < 0.65)] = _COLOURS.index("brown")
    names[is_dull] = _COLOURS.index("gray")
    names[is_dull & (value > 0.8)] = _COLOURS.index("white")
    names[value < 0.18] = _COLOURS.index("black")
    return names


def colour_phrase(images: Sequence[NDArray[np.uint8]]) -> str:
    """One or two colours, and where they are if the top and the bottom differ."""
    ranked = list(colour_shares(images).items())
    (first, _), (second, second_share) = ranked[0], ranked[1]
    if second_share < MIN_COLOUR_SHARE:
        return f"in mostly {first} tones"
    top, bottom = (
        next(iter(colour_shares(parts)))
        for parts in (
            [image[: (len(image) + 2) // 3] for image in images],
            [image[len(image) * 2 // 3 :] for image in images],
        )
    )
    place = "" if top == bottom else f", {top} at the top and {bottom} at the bottom"
    return f"in {first} and {second} tones{place}"


def with_article(noun: str) -> str:
    """The noun with `a` or `an`, by the sound that its first letter normally has."""
    lowered = noun.lower()
    if lowered.startswith(("eu", "one", "uni")):
        return f"a {noun}"
    return f"an {noun}" if lowered.startswith((*"aeiou", "hour")) else f"a {noun}"


def subject_phrase(probabilities_NK: NDArray[np.float32], labels: Sequence[str]) -> str:
    """The most likely class over N pictures with its article, or `a scene` if none is likely."""
    by_label: dict[str, float] = {}
    for label, probability in zip(labels, probabilities_NK.mean(axis=0), strict=True):
        by_label[label] = by_label.get(label, 0.0) + float(probability)
    best = max(by_label, key=by_label.__getitem__)
    if by_label[best] <= MIN_LABEL_PROBABILITY:
        return _UNCLEAR_SUBJECT
    noun = best.partition(" (")[0].partition(" / ")[0]
    return noun if noun in _WITHOUT_ARTICLE else with_article(noun)


def quotable_text(texts: Sequence[str]) -> str:
    """The first words of what was read, once each line, without quotes and odd characters."""
    words = [
        "".join(c for c in word if c.isalnum() or c in "'-.,:!?&%$")
        for text in dict.fromkeys(texts)
        for word in text.split()
    ]
    return " ".join([word for word in words if any(c.isalnum() for c in word)][:MAX_TEXT_WORDS])


def _word_below(limits: Sequence[tuple[float, str]], value: float) -> str:
    return next(word for limit, word in limits if value < limit)


def write_caption(subject: str, request: CaptionRequest) -> str:
    """The sentences for one clip."""
    look = f"{subject} {colour_phrase(request.images)}"
    if request.luminance is not None:
        look += f", {_word_below(_LUMINANCE_WORDS, request.luminance)}"
    sentences = [look]
    moves: list[str] = []
    if request.motion is not None:
        moves.append(_word_below(_MOTION_WORDS, request.motion))
    if request.camera:
        moves.append("static camera" if request.camera == "static" else f"camera {request.camera}")
    if moves:
        sentences.append(", ".join(moves))
    text = quotable_text(request.texts)
    if text:
        sentences.append(f'the text "{text}" is on the screen')
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


class TemplateCaptioner:
    """Names the subject (ImageNet), colours, light, movement, camera and on-screen text."""

    model = "embedded:template-v1"
    is_random = False

    def __init__(self, *, classifier: ImageNetClassifier) -> None:
        self._classifier = classifier

    def caption(self, requests: Sequence[CaptionRequest], seed: int = 0) -> list[Caption | Failure]:
        return [self._caption_one(request) for request in requests]

    def _caption_one(self, request: CaptionRequest) -> Caption:
        probabilities_NK = self._classifier.probabilities(request.images)
        subject = subject_phrase(probabilities_NK, self._classifier.labels)
        return Caption(text=write_caption(subject, request), source="template", model=self.model)
