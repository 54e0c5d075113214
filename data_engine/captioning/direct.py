"""Captions from a model that sees several frames of a clip at once (VCap in STIV)."""

from collections.abc import Sequence
from typing import Literal

from data_engine.captioning import CaptionRequest
from data_engine.captioning.chat import Answer, ChatModel, Failure, Question, evenly_spread
from data_engine.schema import Caption


class DirectCaptioner:
    """One question for each clip."""

    def __init__(
        self, model: ChatModel, *, source: Literal["vlm", "endpoint"], prompt: str, num_frames: int
    ) -> None:
        self._model = model
        self._source = source
        self._prompt = prompt
        self._num_frames = num_frames

    @property
    def is_random(self) -> bool:
        return self._model.is_random

    def caption(self, requests: Sequence[CaptionRequest], seed: int = 0) -> list[Caption | Failure]:
        questions = [
            Question(
                prompt=self._prompt,
                images=evenly_spread(request.images, self._num_frames),
                seed=seed,
            )
            for request in requests
        ]
        return [self._caption_of(answer) for answer in self._model.ask(questions)]

    def _caption_of(self, answer: Answer | Failure) -> Caption | Failure:
        if isinstance(answer, Failure):
            return answer
        return Caption(
            text=answer.text,
            source=self._source,
            model=self._model.name,
            prompt=self._prompt,
            num_tokens=answer.num_tokens,
        )
