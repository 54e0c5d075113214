import pytest

from data_engine.caption_config import CaptionConfig, Language, LintConfig
from data_engine.captioning.lints import Fault, lint, num_words

GOOD = (
    "A man in a grey suit walks across a busy street while a red bus passes behind him. "
    "The camera follows him from left to right, and the light is soft and even."
)
GERMAN = "Ein Mann geht mit einem Hund über eine Straße, und die Kamera folgt ihm von der Seite."


def fault(text: str, prompt: str | None = None, **changes: object) -> Fault | None:
    found = lint(text, LintConfig().model_copy(update=changes), prompt)
    return None if found is None else found.fault


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "An espresso in orange and brown tones, evenly lit. Little movement, static camera.",
        "A very, very, very old dog sleeps. It looks sorry.",
        'A sign reads "Ich bin ein Berliner und das ist nicht von hier" above a door.',
        "A person types on a laptop; the screen shows a list of films.",
        "Users of a gym lift weights [sic] at 10:30 (a.m.) for <5 minutes.",
        "In Los Angeles, el capitan waves.",
        "A child says goodbye, bye bye bye, and runs off.",
        'A title card says "I\'m sorry, I cannot help you" in white letters.',
    ],
)
def test_ordinary_captions_pass(text: str) -> None:
    assert lint(text, LintConfig(), CaptionConfig().prompt) is None


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, I cannot assist with that request.",
        "I\u2019m sorry, but I can\u2019t identify the people in this video.",
        "As an AI language model, I do not have access to videos.",
        "I am unable to view the frames that you mention.",
        "No images were provided. Please upload the frames.",
    ],
)
def test_refusals_are_found(text: str) -> None:
    assert fault(text) is Fault.REFUSAL


@pytest.mark.parametrize(
    "text",
    [
        f"{GOOD}<|im_end|>",
        f"{GOOD} </s>",
        f"<image> {GOOD}",
        f"[INST] {GOOD}",
        f"ASSISTANT: {GOOD}",
        f"```\n{GOOD}\n```",
        f"## Description\n{GOOD}",
        "A **red** bus drives along a street in the rain.",
        '{"caption": "A red bus drives along a street."}',
    ],
)
def test_leaked_markup_is_found(text: str) -> None:
    assert fault(text) is Fault.MARKUP


def test_a_leaked_prompt_is_found() -> None:
    prompt = CaptionConfig().prompt
    assert fault(f"Sure. {prompt} A dog runs.", prompt) is Fault.PROMPT_LEAK
    assert fault(GOOD, prompt) is None


@pytest.mark.parametrize(
    "text",
    [
        f"Sure! {GOOD}",
        f"Here is a description of the clip: {GOOD}",
        f"Here's a one-paragraph summary. {GOOD}",
        f"Caption: {GOOD}",
    ],
)
def test_talk_around_the_caption_is_found(text: str) -> None:
    assert fault(text) is Fault.CHATTER


@pytest.mark.parametrize(
    "text",
    [
        "A dog runs over grass. A cat sleeps. A dog runs over grass.",
        "The sky is blue and blue and blue and blue and the sea is calm.",
        "A man with a hat hat hat hat hat stands by a door.",
        "There is a tree to the left, a tree to the left, a tree to the left of the house.",
        "A cup on a table, a cup on a shelf, a cup on a table near a cup on a shelf with a cup on a "
        "table, and a cup on a shelf.",
    ],
)
def test_repetition_is_found(text: str) -> None:
    assert fault(text) is Fault.REPETITION


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (GERMAN, "en"),
        ("Un homme marche dans la rue avec un chien et la caméra est sur le côté.", "en"),
        ("一只猫坐在椅子上, 阳光很好, 镜头不动。", "en"),
        ("Мужчина идёт по улице, и камера следует за ним.", "en"),
        (GOOD, "de"),
        (GOOD, "zh"),
        (GOOD, "ru"),
    ],
)
def test_another_language_is_found(text: str, language: Language) -> None:
    assert fault(text, language=language) is Fault.LANGUAGE
    assert fault(text, language=None) is None


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (GERMAN, "de"),
        ("一只猫坐在椅子上, 阳光很好, 镜头不动。", "zh"),
        ("猫が椅子の上に座っている。カメラは動かない。", "ja"),
        ("Мужчина идёт по улице, и камера следует за ним.", "ru"),
    ],
)
def test_the_expected_language_passes(text: str, language: Language) -> None:
    assert fault(text, language=language) is None


def test_length_is_counted_in_words_or_in_letters_where_there_are_none() -> None:
    assert num_words("A dog's well-lit face.") == 4
    assert num_words("一只猫 sits") == 4
    assert fault("A dog.") is Fault.TOO_SHORT
    assert fault("A dog.", min_words=None) is None
    assert fault(GOOD, max_words=20) is Fault.TOO_LONG
    assert fault(GOOD, max_words=None) is None


def test_a_finding_says_what_gave_it_away() -> None:
    found = lint("A dog runs. <|endoftext|> A dog", LintConfig())
    assert found is not None
    assert found.detail == "'<|endoftext|>'"
