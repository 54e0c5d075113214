"""DSG-Video: are the objects that a caption names in the clip? (STIV, section 3.5 and appendix I)

1. Questions are written about the existence of what a caption mentions.
2. A judge answers each question on each of N evenly spread frames.
3. An object is hallucinated if every frame says that it is absent; a single `present` clears it.

    dsg_video_i = hallucinated objects / objects mentioned
    dsg_video_s = sentences with a hallucinated object / sentences

An object of which some frame gives no answer, and none says present, is unknown and counts nowhere.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from data_engine.captioning.chat import Failure, Image
from data_engine.schema import Score

_SENTENCE_END = re.compile(
    r"(?<=[.!?])[\"'\u201d\u2019)]?\s+(?=[\"'\u201c(]?[A-Z0-9])|(?<=[\u3002\uff01\uff1f])"
)

_OBJECTS, _HALLUCINATED_OBJECTS = "dsg_objects", "dsg_hallucinated_objects"
_SENTENCES, _HALLUCINATED_SENTENCES = "dsg_sentences", "dsg_hallucinated_sentences"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExistenceQuestion:
    """Whether one thing that a caption mentions can be seen."""

    subject: str
    """What is asked for, in a few words."""
    text: str
    """The whole question, which `yes` answers if the thing is there."""
    sentence: int
    """The sentence of the caption that mentions it, counted from 0."""


class QuestionWriter(Protocol):
    """Questions about captions, each given as its sentences; in order. A caption may leave nothing to ask."""

    def write(
        self, captions: Sequence[Sequence[str]]
    ) -> list[list[ExistenceQuestion] | Failure]: ...


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """Frames of one clip (HxWx3 RGB) and what to look for in each of them."""

    images: Sequence[Image]
    questions: Sequence[ExistenceQuestion]


Answers = Sequence[Sequence[bool | None]]
"""For each question and each frame: present, absent, or no answer."""


class Judge(Protocol):
    """Answers every question on every frame, for several clips in order."""

    @property
    def backend(self) -> str:
        """Which model, stored with the counts."""
        ...

    def judge(self, requests: Sequence[JudgeRequest]) -> list[Answers | Failure]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class DsgCounts:
    """What one caption adds to the aggregate. Objects without an answer are in none of the counts."""

    num_objects: int
    num_hallucinated_objects: int
    num_sentences: int
    num_hallucinated_sentences: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the judge found about one caption."""

    counts: DsgCounts | None
    """None if there was nothing to ask, or no question could be answered."""
    hallucinated: tuple[str, ...]
    """The subjects that no frame shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DsgFigures:
    """Over a set of captions, from 0 (no hallucination) to 1. The paper prints percents."""

    dsg_video_i: float
    dsg_video_s: float


def is_present(frames: Iterable[bool | None]) -> bool | None:
    """One object over the frames: any `present` clears it, and only if all say `absent` is it absent."""
    answers = list(frames)
    if True in answers:
        return True
    return None if None in answers or not answers else False


def verdict_of(
    questions: Sequence[ExistenceQuestion], answers: Answers, num_sentences: int
) -> Verdict:
    present = [is_present(frames) for frames in answers]
    asked = zip(questions, present, strict=True)
    absent = [question for question, is_there in asked if is_there is False]
    num_answered = sum(is_there is not None for is_there in present)
    counts = DsgCounts(
        num_objects=num_answered,
        num_hallucinated_objects=len(absent),
        num_sentences=num_sentences,
        num_hallucinated_sentences=len({question.sentence for question in absent}),
    )
    return Verdict(
        counts=counts if num_answered else None,
        hallucinated=tuple(question.subject for question in absent),
    )


def dsg_figures(counts: Iterable[DsgCounts]) -> DsgFigures | None:
    """The aggregate over captions (sums first, then the ratios), or None if nothing was judged."""
    judged = list(counts)
    if not judged:
        return None
    return DsgFigures(
        dsg_video_i=sum(c.num_hallucinated_objects for c in judged)
        / sum(c.num_objects for c in judged),
        dsg_video_s=sum(c.num_hallucinated_sentences for c in judged)
        / sum(c.num_sentences for c in judged),
    )


def dsg_scores(counts: DsgCounts, backend: str) -> dict[str, Score]:
    """The counts of a clip as scores, and its own share of hallucinated objects to filter by."""
    values = {
        _OBJECTS: counts.num_objects,
        _HALLUCINATED_OBJECTS: counts.num_hallucinated_objects,
        _SENTENCES: counts.num_sentences,
        _HALLUCINATED_SENTENCES: counts.num_hallucinated_sentences,
        "dsg_video_i": counts.num_hallucinated_objects / counts.num_objects,
    }
    return {name: Score(value=float(value), backend=backend) for name, value in values.items()}


def dsg_counts(scores: Mapping[str, Score]) -> DsgCounts | None:
    """The counts that `dsg_scores` put among the scores of a caption; None if it was not judged."""
    names = (_OBJECTS, _HALLUCINATED_OBJECTS, _SENTENCES, _HALLUCINATED_SENTENCES)
    if not scores.keys() >= set(names):
        return None
    known = [round(scores[name].value) for name in names]
    return DsgCounts(
        num_objects=known[0],
        num_hallucinated_objects=known[1],
        num_sentences=known[2],
        num_hallucinated_sentences=known[3],
    )


def split_sentences(text: str) -> list[str]:
    """The sentences of a text; at least one."""
    return [part for part in _SENTENCE_END.split(text.strip()) if part] or [text]
