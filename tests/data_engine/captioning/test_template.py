import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data as photographs

from data_engine.caption_config import CaptionConfig
from data_engine.captioning import CAPTIONERS, CaptionRequest
from data_engine.captioning.chat import open_chat_model
from data_engine.captioning.template import (
    colour_phrase,
    colour_shares,
    quotable_text,
    subject_phrase,
    with_article,
    write_caption,
)
from data_engine.schema import Caption
from data_engine.scores.classifier import ImageNetClassifier, imagenet_labels

GREEN, BLUE, WHITE = (30, 140, 40), (40, 80, 210), (250, 250, 250)


def plain(*bands: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A picture of horizontal bands of the same height."""
    rows = np.repeat(np.array(bands, dtype=np.uint8), 12, axis=0)
    return np.repeat(rows[:, None], 64, axis=1)


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((0, 0, 0), "black"),
        ((128, 128, 128), "gray"),
        (WHITE, "white"),
        ((200, 20, 20), "red"),
        ((240, 140, 20), "orange"),
        ((120, 80, 50), "brown"),
        ((240, 230, 40), "yellow"),
        (GREEN, "green"),
        ((30, 170, 170), "teal"),
        (BLUE, "blue"),
        ((120, 40, 190), "purple"),
        ((240, 110, 180), "pink"),
    ],
)
def test_colours_bear_their_common_names(colour: tuple[int, int, int], name: str) -> None:
    shares = colour_shares([plain(colour)])
    assert next(iter(shares.items())) == (name, 1.0)


def test_every_picture_counts_the_same_for_colour() -> None:
    large = np.tile(plain(GREEN), (10, 10, 1))
    shares = colour_shares([large, plain(BLUE)])
    assert (shares["green"], shares["blue"]) == (0.5, 0.5)


def test_colours_are_placed_only_where_top_and_bottom_differ() -> None:
    assert colour_phrase([plain(GREEN)]) == "in mostly green tones"
    assert colour_phrase([plain(BLUE, BLUE, GREEN)]) == (
        "in blue and green tones, blue at the top and green at the bottom"
    )
    assert colour_phrase([plain(GREEN, WHITE, GREEN)]) == "in green and white tones"


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("espresso", "an espresso"),
        ("tabby cat", "a tabby cat"),
        ("unicycle", "a unicycle"),
        ("umbrella", "an umbrella"),
        ("hourglass", "an hourglass"),
        ("European polecat", "a European polecat"),
        ("Egyptian Mau", "an Egyptian Mau"),
        ("one-piece bathing suit", "a one-piece bathing suit"),
    ],
)
def test_articles_follow_the_sound(noun: str, expected: str) -> None:
    assert with_article(noun) == expected


def one_likely_class(label: str, probability: float) -> NDArray[np.float32]:
    labels = imagenet_labels()
    probabilities = np.full((1, len(labels)), (1 - probability) / len(labels), dtype=np.float32)
    probabilities[0, labels.index(label)] = probability
    return probabilities


@pytest.mark.parametrize(
    ("label", "probability", "expected"),
    [
        ("espresso", 0.3, "an espresso"),
        ("espresso", 0.2, "a scene"),
        ("sunglasses", 0.9, "sunglasses"),
        ("kite (bird of prey)", 0.9, "a kite"),
        ("handrail / baluster", 0.9, "a handrail"),
    ],
)
def test_the_subject_is_named_only_when_likely(
    label: str, probability: float, expected: str
) -> None:
    assert subject_phrase(one_likely_class(label, probability), imagenet_labels()) == expected


def test_classes_of_the_same_name_are_added_up() -> None:
    labels = ("missile", "tank", "missile")
    probabilities_1K = np.array([[0.2, 0.3, 0.2]], dtype=np.float32)
    assert subject_phrase(probabilities_1K, labels) == "a missile"


def test_on_screen_text_is_short_clean_and_said_once() -> None:
    texts = ('"Big"  <Buck>', "Bunny", "Bunny", "| ~", "a film by the people")
    assert quotable_text(texts) == "Big Buck Bunny a film by"


def test_what_was_not_measured_is_not_mentioned() -> None:
    request = CaptionRequest(images=[plain(GREEN)])
    assert write_caption("a scene", request) == "A scene in mostly green tones."


def test_everything_measured_is_mentioned() -> None:
    request = CaptionRequest(
        images=[plain(BLUE, BLUE, GREEN)],
        motion=0.1,
        camera="panning left",
        luminance=0.6,
        texts=("The End",),
    )
    assert write_caption("an espresso", request) == (
        "An espresso in blue and green tones, blue at the top and green at the bottom, "
        "brightly lit. Moderate movement, camera panning left. "
        'The text "The End" is on the screen.'
    )


@pytest.mark.parametrize(
    ("motion", "expected"),
    [(0.0, "Almost no"), (0.03, "Little"), (0.1, "Moderate"), (0.5, "Fast")],
)
def test_movement_is_graded(motion: float, expected: str) -> None:
    request = CaptionRequest(images=[plain(GREEN)], motion=motion, camera="static")
    assert write_caption("a scene", request).endswith(f"{expected} movement, static camera.")


def test_a_request_without_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="picture"):
        CaptionRequest(images=[])


def test_captions_of_different_photographs_differ_and_repeat(
    classifier: ImageNetClassifier,
) -> None:
    captioner = CAPTIONERS["template"](
        CaptionConfig(), classifier=classifier, open_model=open_chat_model
    )
    photos = [photographs.coffee(), photographs.rocket(), photographs.astronaut()]
    requests = [CaptionRequest(images=[photo] * 3, luminance=0.4) for photo in photos]
    captions = captioner.caption(requests)
    assert captions == captioner.caption(requests)
    captions = [caption for caption in captions if isinstance(caption, Caption)]
    assert len(captions) == len(photos)
    assert len({caption.text for caption in captions}) == len(captions)
    assert captions[0].text.startswith("An espresso in ")
    assert captions[1].text.startswith("A missile in ")
    assert captions[2].text.startswith("A scene in ")
    assert {(c.source, c.model) for c in captions} == {("template", "embedded:template-v1")}
