"""Captions of clips, one of each captioner, or why there is none.

What a captioner wrote is stored with its version; adding or changing one asks only that one.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_engine.append_only import read_parts
from data_engine.caption_config import LintConfig
from data_engine.captioning import CAPTIONERS, Captioner, CaptionRequest
from data_engine.captioning.chat import Failure, decides_answers, shared_models
from data_engine.captioning.lints import lint
from data_engine.captioning.template import TemplateCaptioner
from data_engine.config import DataEngineConfig
from data_engine.decode import CUT_VERSION
from data_engine.schema import Caption, ClipRecord
from data_engine.scores.classifier import ImageNetClassifier
from data_engine.scores.motion import camera_motion
from data_engine.scoring import scorer_versions
from data_engine.tables import DatasetPaths, fingerprint

FAILED = "failed"
"""The `CaptionFinding.reason` where there is no text that could be at fault."""
UNANSWERED = "unanswered"
"""The reason where nobody answered, for now: it is not stored, and another run asks again."""


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


Written = Caption | CaptionFinding
"""What one captioner made of one clip."""
CaptionsByClip = Mapping[str, Mapping[str, Written]]
"""By clip, then by captioner."""


def captioner_versions(config: DataEngineConfig) -> dict[str, str]:
    """Every captioner of this configuration, and what decides its text: its models and what they are asked."""
    captions = config.captions
    frames, merged = captions.model_of(captions.frames_by), captions.model_of(captions.merged_by)
    asked = (captions.prompt, captions.num_frames, captions.lints)
    decides: dict[str, tuple[object, ...]] = {
        # It says what was measured and read; there is nothing that a lint could refuse.
        "template": (
            *(TemplateCaptioner.model, ImageNetClassifier.backend),
            scorer_versions(config.scores).get("text"),
        ),
        "vlm": (decides_answers(captions.vlm), *asked),
        "endpoint": (decides_answers(captions.endpoint), *asked),
        "frames_then_merge": (
            *(decides_answers(frames), decides_answers(merged)),
            *(captions.frame_prompt, captions.merge_prompt, captions.num_frames, captions.lints),
        ),
    }
    return {name: fingerprint(name, *decides[name]) for name in captions.captioners}


def captions_goal(config: DataEngineConfig) -> str:
    """What the parts of the caption table were made from: the kept frames; versions are in their rows."""
    return fingerprint("captions", 3, config.decode.measures(), CUT_VERSION)


def captions_row(clip_id: str, captioner: str, version: str, written: Written) -> dict[str, Any]:
    """One row of the caption table."""
    return {
        "clip_id": clip_id,
        "captioner": captioner,
        "version": version,
        "caption": asdict(written) if isinstance(written, Caption) else None,
        "finding": asdict(written) if isinstance(written, CaptionFinding) else None,
    }


def read_captions(config: DataEngineConfig, paths: DatasetPaths) -> CaptionsByClip:
    """What the captioners of this configuration wrote so far."""
    versions = captioner_versions(config)
    written: dict[str, dict[str, Written]] = defaultdict(dict)
    for row in read_parts(paths.captions, captions_goal(config)):
        if versions.get(row["captioner"]) == row["version"]:
            found = row["caption"]
            written[row["clip_id"]][row["captioner"]] = (
                CaptionFinding(**row["finding"]) if found is None else Caption(**found)
            )
    return written


class CaptionWriter:
    """Loads each captioner when it is first needed; afterwards writes captions."""

    def __init__(self, config: DataEngineConfig) -> None:
        self._config = config.captions
        self._open_model = shared_models()
        self._captioners: dict[str, Captioner] = {}

    def write(self, captioner: str, clips: Sequence[ClipFrames]) -> list[Written]:
        """A caption of each clip, in order, or why there is none."""
        requests = [_request(clip) for clip in clips]
        return write_captions(captioner, self._captioner(captioner), requests, self._config.lints)

    def _captioner(self, name: str) -> Captioner:
        if name not in self._captioners:
            self._captioners[name] = CAPTIONERS[name](
                self._config, classifier=self._classifier, open_model=self._open_model
            )
        return self._captioners[name]

    @cached_property
    def _classifier(self) -> ImageNetClassifier:
        return ImageNetClassifier()


def write_captions(
    name: str, captioner: Captioner, requests: Sequence[CaptionRequest], lints: LintConfig
) -> list[Written]:
    """A caption for each clip, or why there is none. One that fails a lint is drawn once more, if it was drawn."""
    outcomes = [_linted(name, o, lints) for o in captioner.caption(requests)]
    at_fault = [
        i
        for i, outcome in enumerate(outcomes)
        if isinstance(outcome, CaptionFinding) and outcome.reason not in (FAILED, UNANSWERED)
    ]
    if at_fault and captioner.is_random:
        again = captioner.caption([requests[i] for i in at_fault], seed=1)
        for i, outcome in zip(at_fault, again, strict=True):
            outcomes[i] = _linted(name, outcome, lints)
    return outcomes


def finding_reason(failure: Failure) -> str:
    return UNANSWERED if failure.is_transient else FAILED


def _linted(name: str, outcome: Caption | Failure, lints: LintConfig) -> Written:
    if isinstance(outcome, Failure):
        return CaptionFinding(name, finding_reason(outcome), outcome.reason)
    if outcome.source == "template":
        # It says what was measured, in a fixed form: there is nothing that a model could have spoilt.
        return outcome
    found = lint(outcome.text, lints, outcome.prompt)
    return outcome if found is None else CaptionFinding(name, found.fault, found.detail)


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
