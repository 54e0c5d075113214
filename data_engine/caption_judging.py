"""What is said of a caption: how well it agrees with the frames, its category, and DSG-Video.

Each of these judges is stored with its version and the caption that it judged; adding or changing one asks only
that one, and no captioner.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from data_engine.append_only import read_parts
from data_engine.caption_config import CaptionConfig, HallucinationConfig
from data_engine.caption_writing import CaptionFinding, finding_reason
from data_engine.captioning.categories import Categorizer, EmbeddedCategorizer, make_categorizer
from data_engine.captioning.chat import Failure, decides_answers, shared_models
from data_engine.config import DataEngineConfig, ScoreConfig
from data_engine.decode import CUT_VERSION
from data_engine.hallucination import Verdict, dsg_scores
from data_engine.hallucination.checker import CaptionedFrames, HallucinationChecker, make_checker
from data_engine.hallucination.embedded import EMBEDDED_BACKEND
from data_engine.schema import Category, Score
from data_engine.scores.classifier import ImageNetClassifier
from data_engine.scores.similarity import (
    SIMILARITY_BACKENDS,
    ConSE,
    SimilarityBackend,
    mean_cosine,
    open_clip_backend,
)
from data_engine.tables import DatasetPaths, fingerprint


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one judge said of one caption."""

    scores: dict[str, Score] = field(default_factory=dict[str, Score])
    category: Category | None = None
    finding: CaptionFinding | None = None
    """Why it said nothing, where that is no answer."""


SaidByClip = Mapping[tuple[str, str], Mapping[str, Judgement]]
"""By clip and `caption_key`, then by judge."""


def judge_versions(config: DataEngineConfig) -> dict[str, str]:
    """Every judge of this configuration, in the order in which they are heard, and what decides what it says."""
    versions = {"similarity": _similarity_version(config.scores)}
    if config.captions.categories.names:
        versions["category"] = _category_version(config.captions)
    if config.hallucination.backend is not None:
        versions["dsg_video"] = _dsg_version(config.hallucination)
    return versions


def _similarity_version(scores: ScoreConfig) -> str:
    if scores.similarity == "open_clip":
        return open_clip_backend(scores.open_clip_model, scores.open_clip_pretrained)
    return ConSE.backend


def _category_version(captions: CaptionConfig) -> str:
    categories = captions.categories
    if categories.backend == "endpoint":
        return fingerprint("category", categories.names, decides_answers(captions.endpoint))
    return fingerprint("category", EmbeddedCategorizer.backend, categories)


def _dsg_version(config: HallucinationConfig) -> str:
    asked = ("dsg_video", config.backend, config.num_frames, config.sentence)
    if config.backend == "embedded":
        return fingerprint(*asked, EMBEDDED_BACKEND)
    if config.backend == "transformers":
        return fingerprint(*asked, decides_answers(config.transformers))
    models = (config.endpoint, config.question_endpoint or config.endpoint)
    return fingerprint(*asked, *map(decides_answers, models))


def judgements_goal(config: DataEngineConfig) -> str:
    """What the parts of the table of judgements were made from: the kept frames; the rest is in their rows."""
    return fingerprint("judgements", 1, config.decode.measures(), CUT_VERSION)


def caption_key(text: str) -> str:
    """By which the table of judgements knows a caption."""
    return fingerprint("caption", text)


def judgements_row(
    clip_id: str, text: str, judge: tuple[str, str], said: Judgement
) -> dict[str, Any]:
    """One row of the table of judgements. `judge`: name and version."""
    name, version = judge
    row = {"clip_id": clip_id, "caption": caption_key(text), "judge": name, "version": version}
    return row | asdict(said)


def read_judgements(config: DataEngineConfig, paths: DatasetPaths) -> SaidByClip:
    """What the judges of this configuration said so far."""
    versions = judge_versions(config)
    said: dict[tuple[str, str], dict[str, Judgement]] = defaultdict(dict)
    for row in read_parts(paths.judgements, judgements_goal(config)):
        if versions.get(row["judge"]) == row["version"]:
            category, finding = row["category"], row["finding"]
            said[row["clip_id"], row["caption"]][row["judge"]] = Judgement(
                scores={name: Score(**score) for name, score in row["scores"].items()},
                category=None if category is None else Category(**category),
                finding=None if finding is None else CaptionFinding(**finding),
            )
    return said


class CaptionJudge:
    """Loads each model when it is first needed, and shares it; afterwards judges captions."""

    def __init__(self, config: DataEngineConfig) -> None:
        self._config = config
        self._open_model = shared_models()
        self._judges: dict[str, Callable[[Sequence[CaptionedFrames]], list[Judgement]]] = {
            "similarity": self._similarities,
            "category": self._categories,
            "dsg_video": self._dsg_video,
        }

    def judge(self, judge: str, clips: Sequence[CaptionedFrames]) -> list[Judgement]:
        """What one judge says of each caption, in order. The trouble of one clip is its finding."""
        return self._judges[judge](clips)

    def _similarities(self, clips: Sequence[CaptionedFrames]) -> list[Judgement]:
        backend = self._similarity
        # The frames of a clip that is shorter than the sampling interval may be none.
        shown = [clip for clip in clips if clip.images]
        if not shown:
            return [Judgement() for _ in clips]
        texts_MD = backend.embed_texts([clip.caption for clip in shown])
        images = backend.embed_clips([clip.images for clip in shown])
        cosines = map(mean_cosine, images, texts_MD)
        return [
            Judgement({backend.score_name: Score(value=next(cosines), backend=backend.backend)})
            if clip.images
            else Judgement()
            for clip in clips
        ]

    def _categories(self, clips: Sequence[CaptionedFrames]) -> list[Judgement]:
        assert self._categorizer is not None, "without names nobody is asked"
        found = self._categorizer.categorize([clip.caption for clip in clips])
        return [
            Judgement(finding=CaptionFinding("category", finding_reason(category), category.reason))
            if isinstance(category, Failure)
            else Judgement(category=category)
            for category in found
        ]

    def _dsg_video(self, clips: Sequence[CaptionedFrames]) -> list[Judgement]:
        assert self._checker is not None, "without a backend nobody is asked"
        backend = self._checker.backend
        return [_judgement(verdict, backend) for verdict in self._checker.check(clips)]

    @cached_property
    def _classifier(self) -> ImageNetClassifier:
        return ImageNetClassifier()

    @cached_property
    def _similarity(self) -> SimilarityBackend:
        scores = self._config.scores
        return SIMILARITY_BACKENDS[scores.similarity](
            classifier=self._classifier,
            open_clip_model=scores.open_clip_model,
            open_clip_pretrained=scores.open_clip_pretrained,
        )

    @cached_property
    def _categorizer(self) -> Categorizer | None:
        return make_categorizer(self._config.captions, self._open_model)

    @cached_property
    def _checker(self) -> HallucinationChecker | None:
        return make_checker(
            self._config.hallucination, classifier=self._classifier, open_model=self._open_model
        )


def _judgement(verdict: Verdict | Failure, backend: str) -> Judgement:
    if isinstance(verdict, Failure):
        return Judgement(
            finding=CaptionFinding("dsg_video", finding_reason(verdict), verdict.reason)
        )
    # A caption that names nothing that could be looked for was judged, and has no counts.
    return Judgement({} if verdict.counts is None else dsg_scores(verdict.counts, backend))
