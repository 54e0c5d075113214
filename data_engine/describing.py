"""Captions for clips, what is wrong with them, and what follows from them: similarity, category, DSG-Video."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from data_engine.caption_config import CaptionConfig, HallucinationConfig, LintConfig
from data_engine.captioning import CAPTIONERS, Captioner, CaptionRequest
from data_engine.captioning.categories import make_categorizer
from data_engine.captioning.chat import Failure, check_chat_model, shared_models
from data_engine.captioning.lints import lint
from data_engine.config import DataEngineConfig, ScoreConfig
from data_engine.hallucination import dsg_scores
from data_engine.hallucination.checker import (
    CaptionedFrames,
    check_hallucination_models,
    make_checker,
)
from data_engine.schema import Caption, Category, ClipRecord, Score
from data_engine.scores.classifier import ImageNetClassifier
from data_engine.scores.motion import camera_motion
from data_engine.scores.similarity import (
    SIMILARITY_BACKENDS,
    mean_cosine,
    open_clip_checkpoint,
)
from data_engine.scoring import scorer_versions
from data_engine.tables import DatasetPaths, fingerprint, read_parts

_HOW_TO_REACH = {
    *("url", "api_key_variable", "timeout_s", "max_retries", "max_backoff_s", "max_concurrency")
}
_HOW_TO_RUN = {"device", "batch_size"}

FAILED = "failed"
"""The `CaptionFinding.reason` where there is no text that could be at fault."""


@dataclass(frozen=True, slots=True)
class ClipFrames:
    """A clip with its kept frames (HxWx3 RGB, first to last) and the text that was read in them."""

    record: ClipRecord
    images: list[NDArray[np.uint8]]
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CaptionFinding:
    """Why a captioner (or `dsg_video`) gave nothing for a clip: a `Fault`, or `failed`."""

    step: str
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """All that this step has to say of one clip."""

    clip_id: str
    captions: tuple[Caption, ...]
    """Those that were written, in the order of the configuration, then those that came with the source."""
    scores: dict[str, Score]
    """Of the first caption: its similarity to the frames, and its DSG-Video counts if it was judged."""
    category: Category | None
    findings: tuple[CaptionFinding, ...]
    error: str | None
    """Set if no caption is left."""

    def applied_to(self, record: ClipRecord) -> ClipRecord:
        """The record with what was found out; to be judged by the filters next."""
        return replace(
            record.with_scores(self.scores),
            captions=self.captions,
            category=self.category,
            error=self.error,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The opposite of `dataclasses.asdict`."""
        values: dict[str, Any] = {
            **data,
            "captions": tuple(Caption(**caption) for caption in data["captions"]),
            "scores": {name: Score(**score) for name, score in data["scores"].items()},
            "category": None if data["category"] is None else Category(**data["category"]),
            "findings": tuple(CaptionFinding(**finding) for finding in data["findings"]),
        }
        return cls(**values)


def check_models(scores: ScoreConfig) -> None:
    """Fetch the weights that the workers will load, once and before the first of them starts.

    Raises:
        JobError: a model is unknown, or its weights cannot be had.
    """
    if scores.similarity == "open_clip":
        open_clip_checkpoint(scores.open_clip_model, scores.open_clip_pretrained)


def check_chat_models(captions: CaptionConfig, hallucination: HallucinationConfig) -> None:
    """Find out before any work whether every model that is asked about clips can be used.

    Raises:
        JobError: a server cannot be reached, refuses the key or has no such model; or a local model is not
            there, is of an unknown kind, or would need code of its own.
    """
    for model in captions.models_used.values():
        check_chat_model(model)
    check_hallucination_models(hallucination)


def captions_goal(config: DataEngineConfig) -> str:
    """What decides the text of captions and what is said of them: the models and what they are asked.

    Not where a model runs, how many are asked at a time or how long to wait for it.
    """
    return fingerprint(
        *("captions", 2, config.decode.measures(), scorer_versions(config.scores).get("text")),
        config.captions.model_dump(
            mode="json",
            exclude={"endpoint": _HOW_TO_REACH, "vlm": _HOW_TO_RUN, "llm": _HOW_TO_RUN},
        ),
        config.hallucination.model_dump(
            mode="json",
            exclude={
                "endpoint": _HOW_TO_REACH,
                "question_endpoint": _HOW_TO_REACH,
                "transformers": _HOW_TO_RUN,
            },
        ),
        config.scores.model_dump(
            mode="json", include={"similarity", "open_clip_model", "open_clip_pretrained"}
        ),
    )


def read_descriptions(config: DataEngineConfig, paths: DatasetPaths) -> Iterator[Description]:
    """What was said so far of the clips of a data set, with this configuration."""
    yield from map(Description.from_dict, read_parts(paths.captions, captions_goal(config)))


class Describer:
    """Loads the captioners and the other models once; afterwards describes clips."""

    def __init__(
        self,
        captions: CaptionConfig,
        scores: ScoreConfig,
        hallucination: HallucinationConfig,
    ) -> None:
        classifier = ImageNetClassifier()
        open_model = shared_models()
        self._lints = captions.lints
        self._captioners = {
            name: CAPTIONERS[name](captions, classifier=classifier, open_model=open_model)
            for name in captions.captioners
        }
        self._similarity = SIMILARITY_BACKENDS[scores.similarity](
            classifier=classifier,
            open_clip_model=scores.open_clip_model,
            open_clip_pretrained=scores.open_clip_pretrained,
        )
        self._categorizer = make_categorizer(captions, open_model)
        self._checker = make_checker(hallucination, classifier=classifier, open_model=open_model)

    def describe(self, clips: Sequence[ClipFrames]) -> list[Description]:
        """What can be said of each clip, in order. The trouble of one clip is in its description."""
        requests = [_request(clip) for clip in clips]
        by_captioner = [
            write_captions(name, captioner, requests, self._lints)
            for name, captioner in self._captioners.items()
        ]
        descriptions: list[Description] = []
        for clip, outcomes in zip(clips, zip(*by_captioner, strict=True), strict=True):
            written = [outcome for outcome in outcomes if isinstance(outcome, Caption)]
            originals = [c for c in clip.record.captions if c.source == "original"]
            findings = tuple(o for o in outcomes if isinstance(o, CaptionFinding))
            captions = (*written, *originals)
            descriptions.append(
                Description(
                    clip_id=clip.record.clip_id,
                    captions=captions,
                    scores={},
                    category=None,
                    findings=findings,
                    error=None if captions else _no_caption(findings),
                )
            )
        return self._study(clips, descriptions)

    def _study(
        self, clips: Sequence[ClipFrames], descriptions: list[Description]
    ) -> list[Description]:
        """Adds what depends on the first caption."""
        with_text = [i for i, d in enumerate(descriptions) if d.captions]
        if not with_text:
            return descriptions
        texts = [descriptions[i].captions[0].text for i in with_text]
        categories = (
            self._categorizer.categorize(texts) if self._categorizer else [None] * len(texts)
        )
        embedded_MD = self._similarity.embed_texts(texts)
        for i, category, text_D in zip(with_text, categories, embedded_MD, strict=True):
            cosine = mean_cosine(self._similarity.embed_images(clips[i].images), text_D)
            score = Score(value=cosine, backend=self._similarity.backend)
            descriptions[i] = replace(
                descriptions[i], scores={self._similarity.score_name: score}, category=category
            )
        self._check(clips, descriptions, with_text)
        return descriptions

    def _check(
        self,
        clips: Sequence[ClipFrames],
        descriptions: list[Description],
        with_text: Sequence[int],
    ) -> None:
        if self._checker is None:
            return
        verdicts = self._checker.check(
            [CaptionedFrames(descriptions[i].captions[0].text, clips[i].images) for i in with_text]
        )
        for i, verdict in zip(with_text, verdicts, strict=True):
            known = descriptions[i]
            if isinstance(verdict, Failure):
                finding = CaptionFinding("dsg_video", FAILED, verdict.reason)
                descriptions[i] = replace(known, findings=(*known.findings, finding))
            elif verdict.counts is not None:
                scores = dsg_scores(verdict.counts, self._checker.backend)
                descriptions[i] = replace(known, scores={**known.scores, **scores})


def write_captions(
    name: str, captioner: Captioner, requests: Sequence[CaptionRequest], lints: LintConfig
) -> list[Caption | CaptionFinding]:
    """A caption for each clip, or why there is none. One that fails a lint is drawn once more, if it was drawn."""
    outcomes = [_judged(name, o, lints) for o in captioner.caption(requests)]
    at_fault = [
        i
        for i, outcome in enumerate(outcomes)
        if isinstance(outcome, CaptionFinding) and outcome.reason != FAILED
    ]
    if at_fault and captioner.is_random:
        again = captioner.caption([requests[i] for i in at_fault], seed=1)
        for i, outcome in zip(at_fault, again, strict=True):
            outcomes[i] = _judged(name, outcome, lints)
    return outcomes


def _judged(name: str, outcome: Caption | Failure, lints: LintConfig) -> Caption | CaptionFinding:
    if isinstance(outcome, Failure):
        return CaptionFinding(name, FAILED, outcome.reason)
    if outcome.source == "template":
        # It says what was measured, in a fixed form: there is nothing that a model could have spoilt.
        return outcome
    found = lint(outcome.text, lints, outcome.prompt)
    return outcome if found is None else CaptionFinding(name, found.fault, found.detail)


def _no_caption(findings: Sequence[CaptionFinding]) -> str:
    return "no caption: " + "; ".join(f"{f.step} {f.reason} ({f.detail})" for f in findings)


def _request(clip: ClipFrames) -> CaptionRequest:
    record = clip.record
    right, down, outwards = (
        record.score(f"camera_{direction}") for direction in ("right", "down", "outwards")
    )
    camera = (
        None
        if right is None or down is None or outwards is None
        else camera_motion(right, down, outwards)
    )
    return CaptionRequest(
        images=clip.images,
        motion=record.score("motion"),
        camera=camera,
        luminance=record.score("luminance"),
        texts=clip.texts,
    )
