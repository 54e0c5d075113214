"""DSG-Video over clips: questions, answers, verdicts, with the backend that the configuration names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_engine.caption_config import HallucinationConfig
from data_engine.captioning.chat import (
    ChatModel,
    ChatModelConfig,
    Failure,
    Image,
    check_chat_model,
    evenly_spread,
)
from data_engine.hallucination import (
    Answers,
    ExistenceQuestion,
    Judge,
    JudgeRequest,
    QuestionWriter,
    Verdict,
    split_sentences,
    verdict_of,
)
from data_engine.hallucination.asked import ChatJudge, ChatQuestionWriter
from data_engine.hallucination.embedded import EmbeddedJudge, NounQuestionWriter
from data_engine.scores.classifier import ImageNetClassifier


@dataclass(frozen=True, slots=True)
class CaptionedFrames:
    """A caption and the frames of its clip (HxWx3 RGB, first to last)."""

    caption: str
    images: Sequence[Image]


class HallucinationChecker:
    """Loads its models once; afterwards judges captions. A `Failure` concerns its own clip only."""

    def __init__(self, config: HallucinationConfig, writer: QuestionWriter, judge: Judge) -> None:
        self._config = config
        self._writer = writer
        self._judge = judge

    @property
    def backend(self) -> str:
        return self._judge.backend

    def check(self, clips: Sequence[CaptionedFrames]) -> list[Verdict | Failure]:
        captions = [self._sentences(clip.caption) for clip in clips]
        written = self._writer.write(captions)
        requests = [
            JudgeRequest(evenly_spread(clip.images, self._config.num_frames), questions)
            for clip, questions in zip(clips, written, strict=True)
            if not isinstance(questions, Failure)
        ]
        judged = iter(self._judge.judge(requests))
        verdicts: list[Verdict | Failure] = []
        for sentences, questions in zip(captions, written, strict=True):
            answers = questions if isinstance(questions, Failure) else next(judged)
            verdicts.append(_verdict(questions, answers, len(sentences)))
        return verdicts

    def _sentences(self, caption: str) -> list[str]:
        return [caption] if self._config.sentence == "caption" else split_sentences(caption)


def _verdict(
    questions: list[ExistenceQuestion] | Failure,
    answers: Answers | Failure,
    num_sentences: int,
) -> Verdict | Failure:
    if isinstance(questions, Failure):
        return questions
    return (
        answers if isinstance(answers, Failure) else verdict_of(questions, answers, num_sentences)
    )


def make_checker(
    config: HallucinationConfig,
    *,
    classifier: ImageNetClassifier,
    open_model: Callable[[ChatModelConfig], ChatModel],
) -> HallucinationChecker | None:
    """The checker that the configuration names; None if captions are not checked.

    Raises:
        JobError: a model cannot be loaded, or the key of a server is not set.
    """
    if config.backend is None:
        return None
    if config.backend == "embedded":
        return HallucinationChecker(config, NounQuestionWriter(), EmbeddedJudge(classifier))
    if config.backend == "transformers":
        model = writer = open_model(config.transformers)
    else:
        model = open_model(config.endpoint)
        writer = open_model(config.question_endpoint or config.endpoint)
    return HallucinationChecker(config, ChatQuestionWriter(writer), ChatJudge(model))


def check_hallucination_models(config: HallucinationConfig) -> None:
    """Find out before any work whether the models of DSG-Video can be used.

    Raises:
        JobError: as `check_chat_model`.
    """
    if config.backend == "transformers":
        check_chat_model(config.transformers)
    if config.backend == "endpoint":
        check_chat_model(config.endpoint)
        if config.question_endpoint is not None:
            check_chat_model(config.question_endpoint)
