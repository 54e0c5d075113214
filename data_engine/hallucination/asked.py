"""DSG-Video by asking models: a language model writes the questions, a multimodal one answers them."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from data_engine.captioning.chat import Answer, ChatModel, Failure, Question
from data_engine.hallucination import Answers, ExistenceQuestion, JudgeRequest

_WRITE_PROMPT = """\
Below are the numbered sentences of a caption of a video clip. List every detail that they mention and that can be \
seen in a frame: each object, each action and the setting. For each write one question that is answered with yes if \
the detail is there, and does not presume that it is. Name each detail once. Answer with a JSON list and nothing \
else, such as

[{{"detail": "dog", "question": "Is there a dog?", "sentence": 1}}, \
{{"detail": "running", "question": "Is somebody or something running?", "sentence": 1}}]

Sentences:
{sentences}"""

_JUDGE_PROMPT = "{question} Look at the picture and answer with one word: yes or no."


class ChatQuestionWriter:
    """Asks for questions as JSON. A model that draws its answers gets a second try."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model

    def write(self, captions: Sequence[Sequence[str]]) -> list[list[ExistenceQuestion] | Failure]:
        written = self._try(captions, seed=0)
        failed = [i for i, questions in enumerate(written) if isinstance(questions, Failure)]
        if failed and self._model.is_random:
            again = self._try([captions[i] for i in failed], seed=1)
            for i, questions in zip(failed, again, strict=True):
                written[i] = questions
        return written

    def _try(
        self, captions: Sequence[Sequence[str]], seed: int
    ) -> list[list[ExistenceQuestion] | Failure]:
        answers = self._model.ask([Question(prompt=_prompt(c), seed=seed) for c in captions])
        return [
            answer if isinstance(answer, Failure) else parse_questions(answer.text, len(sentences))
            for answer, sentences in zip(answers, captions, strict=True)
        ]


def _prompt(sentences: Sequence[str]) -> str:
    numbered = (f"{i}. {' '.join(text.split())}" for i, text in enumerate(sentences, start=1))
    return _WRITE_PROMPT.format(sentences="\n".join(numbered))


def parse_questions(text: str, num_sentences: int) -> list[ExistenceQuestion] | Failure:
    """The questions of an answer, which may have words or a fence around the list."""
    start, end = text.find("["), text.rfind("]")
    try:
        entries: Any = json.loads(text[start : end + 1])
        questions = [
            ExistenceQuestion(
                subject=str(entry["detail"]).strip(),
                text=str(entry["question"]).strip(),
                sentence=int(entry["sentence"]) - 1,
            )
            for entry in entries
        ]
    except (ValueError, KeyError, TypeError):
        return Failure(f"the model wrote no list of questions: {text[:100]!r}")
    if any(not 0 <= question.sentence < num_sentences for question in questions):
        return Failure(f"a question is about a sentence that is not there: {text[:100]!r}")
    # One detail is one object, however often it is asked for.
    return list(
        {question.subject.casefold(): question for question in reversed(questions)}.values()
    )[::-1]


class ChatJudge:
    """Puts every question to every frame alone, as the paper does."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model

    @property
    def backend(self) -> str:
        return self._model.name

    def judge(self, requests: Sequence[JudgeRequest]) -> list[Answers | Failure]:
        asked = [
            Question(prompt=_JUDGE_PROMPT.format(question=question.text), images=[image])
            for request in requests
            for question in request.questions
            for image in request.images
        ]
        answers = iter(self._model.ask(asked))
        return [self._answers(request, answers) for request in requests]

    def _answers(
        self, request: JudgeRequest, answers: Iterator[Answer | Failure]
    ) -> Answers | Failure:
        by_question = [list(islice(answers, len(request.images))) for _ in request.questions]
        failures = (a for frames in by_question for a in frames if isinstance(a, Failure))
        failure = next(failures, None)
        if failure is not None:
            return failure
        return [
            [parse_yes_no(a.text) for a in frames if isinstance(a, Answer)]
            for frames in by_question
        ]


def parse_yes_no(text: str) -> bool | None:
    """Whether an answer begins with yes or no; None if with neither."""
    word = text.strip(" \t\n\"'*.`").casefold()
    if word.startswith("yes"):
        return True
    return False if word.startswith("no") and not word.startswith(("not ", "nothing")) else None
