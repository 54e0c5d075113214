"""Cheap checks of the captions that models write. Each finding has a name.

They look at the text alone and find plain defects: they do not say whether a caption is true.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from data_engine.caption_config import Language, LintConfig

_MAX_QUOTED = 60


class Fault(StrEnum):
    """What is wrong with a caption, in the order of the checks: the first that applies is reported."""

    REFUSAL = "refusal"
    MARKUP = "markup"
    PROMPT_LEAK = "prompt_leak"
    CHATTER = "chatter"
    REPETITION = "repetition"
    LANGUAGE = "language"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault, and what gave it away."""

    fault: Fault
    detail: str


_REFUSAL = re.compile(
    r"""
      \bI(?:'|\u2019)?m\s(?:sorry|unable|not\sable|afraid)\b
    | \bI\sam\s(?:sorry|unable|not\sable|afraid)\b
    | \bI\s(?:really\s)?(?:can(?:no|')t|can\u2019t|cannot|could\snot|couldn't|won't|do\snot|don't|don\u2019t)\s
      (?:\w+\s)?(?:assist|help|provide|describe|see|view|watch|access|identify|determine|comply|have\saccess)\b
    | \bas\san?\s(?:AI|artificial|language|text-based)\b
    | \b(?:no|without)\s(?:image|picture|video|frame)s?\s(?:was|were|is|are|has\sbeen|have\sbeen)?\s?
      (?:provided|attached|uploaded|given)\b
    | \bplease\s(?:provide|upload|share|attach)\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
_MARKUP = re.compile(
    r"""
      <\|[^|>]*\|> | </?s> | \[/?INST\] | <{2}/?SYS>{2} | </?think>       # control tokens
    | </?(?:image|img|video|audio|div|span|p|br|b|i|pad|unk|bos|eos|start_of_turn|end_of_turn)\b[^>]*>
    | ``` | ^\s*\#{1,6}\s | \*\*[^*]+\*\* | !?\[[^\]]+\]\([^)]+\)           # Markdown
    | ^\s*(?:user|assistant|human|system)\s*:                               # turns of a chat
    | \A\s*[\[{]\s*["{\[]                                                   # JSON
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_CHATTER = re.compile(
    r"""\A\s*(?: (?:sure|certainly|of\scourse|okay|ok|absolutely)\s*[,!.:]
      | here(?:'s|\u2019s|\sis|\sare)\s(?:a|an|the|my|your)\s(?:[\w-]+\s){0,3}?(?:caption|description|summary|paragraph)
      | (?:caption|description|summary)\s*: )""",
    re.VERBOSE | re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_SENTENCE = re.compile(r"[^.!?\u3002\uff01\uff1f]+")
_QUOTED = re.compile(r'"[^"]*"|\u201c[^\u201d]*\u201d')

_MIN_LEAKED_WORDS = 8
_MIN_REPEATED_WORDS = 3
"""A sentence that comes twice counts from this length on."""
_MAX_RUN = {1: 3, 2: 2, 3: 2, 4: 2, 5: 2, 6: 2, 7: 2, 8: 2}
"""How often a phrase of so many words may follow on itself: `very, very, very` is still English."""
_MIN_WORDS_FOR_SHARE = 20
_MAX_REPEATED_SHARE = 0.3
"""Of the runs of three words, those that occurred before."""

_SCRIPTS: dict[Language, tuple[str, ...]] = {
    **dict.fromkeys(("en", "de", "fr", "es", "it", "pt", "nl"), ("LATIN",)),
    **dict.fromkeys(("ru", "uk"), ("CYRILLIC",)),
    "el": ("GREEK",),
    "ar": ("ARABIC",),
    "he": ("HEBREW",),
    "hi": ("DEVANAGARI",),
    "th": ("THAI",),
    "zh": ("CJK",),
    "ja": ("HIRAGANA", "KATAKANA", "CJK", "KATAKANA-HIRAGANA"),
    "ko": ("HANGUL",),
}
_WORDLESS = frozenset(("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "THAI"))
_MAX_FOREIGN_LETTERS = 0.2
_MIN_FUNCTION_WORDS = 3
# Common in one of the languages, and mostly not a word of another.
_FUNCTION_WORD_LISTS: dict[Language, str] = {
    "en": "the and of with is are on at by to it from while there which that its",
    "de": "der das und ist ein eine einem einer einen mit auf nicht im vor sich zu von wird",
    "fr": "le les une et est dans avec du au aux sur qui des pour ou ses",
    "es": "el los las y una en con del por un su que hay mientras al está",
    "it": "il gli di che è sono della nel con sul alla uno dei mentre una",
    "pt": "os uma em com do da no na ao um que são enquanto está pelo",
    "nl": "het een van met zijn op aan naar wordt voor er niet terwijl",
}
_FUNCTION_WORDS = {
    language: frozenset(words.split()) for language, words in _FUNCTION_WORD_LISTS.items()
}


def lint(text: str, config: LintConfig, prompt: str | None = None) -> Finding | None:
    """The first fault of a caption, or None. `prompt` is what the model was asked.

    Text in quotation marks is taken as read off the screen: it may be of any language.
    """
    words = _words(text)
    said = _QUOTED.sub(" ", text.strip().strip('"'))
    faults: Iterable[tuple[Fault, str | None]] = (
        (Fault.REFUSAL, _match(_REFUSAL, said)),
        (Fault.MARKUP, _match(_MARKUP, text)),
        (Fault.PROMPT_LEAK, None if prompt is None else _leak(words, _words(prompt))),
        (Fault.CHATTER, _match(_CHATTER, text)),
        (Fault.REPETITION, _repetition(text, words)),
        (
            Fault.LANGUAGE,
            None if config.language is None else _foreign(text, config.language),
        ),
        (Fault.TOO_SHORT, _too_short(text, config.min_words)),
        (Fault.TOO_LONG, _too_long(text, config.max_words)),
    )
    return next((Finding(fault, detail) for fault, detail in faults if detail is not None), None)


def num_words(text: str) -> int:
    """Words; letters where the script does not set words apart."""
    wordless = sum(1 for char in text if _script(char) in _WORDLESS)
    spaced = "".join(" " if _script(char) in _WORDLESS else char for char in text)
    return wordless + len(_WORD.findall(spaced))


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _match(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return None if found is None else repr(found.group()[:_MAX_QUOTED].strip())


def _leak(words: list[str], asked: list[str]) -> str | None:
    runs = {tuple(run) for run in _runs(asked, _MIN_LEAKED_WORDS)}
    leaked = next((run for run in _runs(words, _MIN_LEAKED_WORDS) if tuple(run) in runs), None)
    return None if leaked is None else f"repeats the prompt: {' '.join(leaked)!r}"


def _runs(words: list[str], length: int) -> Iterable[list[str]]:
    return (words[i : i + length] for i in range(len(words) - length + 1))


def _repetition(text: str, words: list[str]) -> str | None:
    sentences = Counter(" ".join(_words(sentence)) for sentence in _SENTENCE.findall(text))
    for sentence, times in sentences.items():
        if times > 1 and len(sentence.split()) >= _MIN_REPEATED_WORDS:
            return f"{times} times {sentence[:_MAX_QUOTED]!r}"
    for length, most in _MAX_RUN.items():
        span = length * (most + 1)
        for run in _runs(words, span):
            if run == run[:length] * (most + 1):
                return f"{most + 1} times in a row {' '.join(run[:length])!r}"
    threes = [tuple(run) for run in _runs(words, 3)]
    if len(words) >= _MIN_WORDS_FOR_SHARE:
        share = 1 - len(set(threes)) / len(threes)
        if share > _MAX_REPEATED_SHARE:
            return f"{share:.0%} of the runs of three words occurred before"
    return None


def _foreign(text: str, language: Language) -> str | None:
    text = _QUOTED.sub(" ", text)
    letters = [_script(char) for char in text if char.isalpha()]
    expected = _SCRIPTS[language]
    foreign = Counter(script for script in letters if script not in expected)
    if foreign.total() > _MAX_FOREIGN_LETTERS * len(letters):
        script, times = foreign.most_common(1)[0]
        return f"{times} of {len(letters)} letters are {script.lower()}, expected {expected[0].lower()}"
    if language not in _FUNCTION_WORDS:
        return None
    words = _words(text)
    hits = {name: sum(word in known for word in words) for name, known in _FUNCTION_WORDS.items()}
    likeliest = max(hits, key=hits.__getitem__)
    # A margin, because names such as `Los Angeles` are no other language.
    if hits[likeliest] >= max(_MIN_FUNCTION_WORDS, hits[language] + 2):
        return f"reads as {likeliest!r}, expected {language!r}"
    return None


def _script(char: str) -> str:
    """Such as `LATIN`: the first word of the Unicode name; empty for what is no letter."""
    return unicodedata.name(char, "").partition(" ")[0] if char.isalpha() else ""


def _too_short(text: str, min_words: int | None) -> str | None:
    count = num_words(text)
    return None if min_words is None or count >= min_words else f"{count} words, under {min_words}"


def _too_long(text: str, max_words: int | None) -> str | None:
    count = num_words(text)
    return None if max_words is None or count <= max_words else f"{count} words, over {max_words}"
