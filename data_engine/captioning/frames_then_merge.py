"""Captions from single frames, merged by a language model (FCapLLM in STIV).

No model sees two frames, so that movement is at best guessed; and the language model can invent. The paper
measured both against direct captions, which is why it gave this way up.
"""

from collections.abc import Sequence
from itertools import islice

from data_engine.captioning import CaptionRequest
from data_engine.captioning.chat import Answer, ChatModel, Failure, Question, evenly_spread
from data_engine.schema import Caption


class FramesThenMerge:
    """One question for each frame, then one for each clip."""

    def __init__(
        self,
        frame_model: ChatModel,
        merge_model: ChatModel,
        *,
        frame_prompt: str,
        merge_prompt: str,
        num_frames: int,
    ) -> None:
        self._frame_model = frame_model
        self._merge_model = merge_model
        self._frame_prompt = frame_prompt
        self._merge_prompt = merge_prompt
        self._num_frames = num_frames

    @property
    def is_random(self) -> bool:
        return self._frame_model.is_random or self._merge_model.is_random

    def caption(self, requests: Sequence[CaptionRequest], seed: int = 0) -> list[Caption | Failure]:
        """The prompt that is stored is the one of the merge, without the lines that follow it."""
        by_clip = self._describe_frames(requests, seed)
        questions = [
            Question(prompt=self._merge_question(lines), seed=seed)
            for lines in by_clip
            if not isinstance(lines, Failure)
        ]
        merged = iter(self._merge_model.ask(questions))
        return [
            lines if isinstance(lines, Failure) else self._caption_of(next(merged))
            for lines in by_clip
        ]

    def _describe_frames(
        self, requests: Sequence[CaptionRequest], seed: int
    ) -> list[list[str] | Failure]:
        """The lines of each clip; one frame that fails fails the clip, as a gap would mislead the merge."""
        frames = [evenly_spread(request.images, self._num_frames) for request in requests]
        answers = iter(
            self._frame_model.ask(
                [
                    Question(prompt=self._frame_prompt, images=[image], seed=seed)
                    for images in frames
                    for image in images
                ]
            )
        )
        by_clip: list[list[str] | Failure] = []
        for images in frames:
            of_clip = list(islice(answers, len(images)))
            failure = next((a for a in of_clip if isinstance(a, Failure)), None)
            by_clip.append(failure or [a.text for a in of_clip if isinstance(a, Answer)])
        return by_clip

    def _merge_question(self, lines: Sequence[str]) -> str:
        numbered = (f"{i}. {' '.join(line.split())}" for i, line in enumerate(lines, start=1))
        return "\n".join((self._merge_prompt, "", *numbered))

    def _caption_of(self, answer: Answer | Failure) -> Caption | Failure:
        if isinstance(answer, Failure):
            return answer
        return Caption(
            text=answer.text,
            source="frames_then_merge",
            model=f"{self._frame_model.name} + {self._merge_model.name}",
            prompt=self._merge_prompt,
            num_tokens=answer.num_tokens,
        )
