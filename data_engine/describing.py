"""All that captioning has to say of a clip: its captions, and what was said of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from data_engine.caption_config import CaptionConfig, HallucinationConfig
from data_engine.caption_judging import (
    Judgement,
    SaidByClip,
    caption_key,
    judge_versions,
    read_judgements,
)
from data_engine.caption_writing import CaptionFinding, CaptionsByClip, Written, read_captions
from data_engine.captioning.chat import check_chat_model
from data_engine.config import DataEngineConfig, ScoreConfig
from data_engine.hallucination.checker import check_hallucination_models
from data_engine.schema import Caption, Category, ClipRecord, Score
from data_engine.scores.similarity import open_clip_checkpoint
from data_engine.tables import DatasetPaths


@dataclass(frozen=True, slots=True)
class JudgedCaption:
    """A caption of a clip, and what the judges said of it."""

    caption: Caption
    said: tuple[Judgement, ...]

    @property
    def scores(self) -> dict[str, Score]:
        return {name: score for judgement in self.said for name, score in judgement.scores.items()}


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
    judged: tuple[JudgedCaption, ...] = ()
    """The captions of which something was said, the first one first."""

    def applied_to(self, record: ClipRecord) -> ClipRecord:
        """The record with what was found out; to be judged by the filters next."""
        return replace(
            record.with_scores(self.scores),
            captions=self.captions,
            category=self.category,
            error=self.error,
        )


def captions_of(record: ClipRecord, written: Sequence[Written]) -> tuple[Caption, ...]:
    """Those that were written, then those that came with the source; the first is the main one."""
    originals = (caption for caption in record.captions if caption.source == "original")
    return (*(w for w in written if isinstance(w, Caption)), *originals)


def judged_texts(config: DataEngineConfig, captions: Sequence[Caption]) -> tuple[str, ...]:
    """The texts that judges are asked about, each once."""
    chosen = captions if config.captions.judged == "all" else captions[:1]
    return tuple(dict.fromkeys(caption.text for caption in chosen))


def described(
    record: ClipRecord, written: Sequence[Written], said: Mapping[str, Sequence[Judgement]]
) -> Description:
    """What the captioners made of a clip, and the judges of its captions, by their text."""
    captions = captions_of(record, written)
    unwritten = tuple(w for w in written if isinstance(w, CaptionFinding))
    judged = tuple(JudgedCaption(c, tuple(said[c.text])) for c in captions if c.text in said)
    first = judged[0].said if judged else ()
    return Description(
        clip_id=record.clip_id,
        captions=captions,
        scores=judged[0].scores if judged else {},
        category=next((j.category for j in first if j.category is not None), None),
        findings=(
            *unwritten,
            *(j.finding for heard in said.values() for j in heard if j.finding is not None),
        ),
        error=None if captions else _no_caption(unwritten),
        judged=judged,
    )


def read_descriptions(
    config: DataEngineConfig, paths: DatasetPaths, records: Sequence[ClipRecord]
) -> Iterator[Description]:
    """What was said of clips, with this configuration; without those of which not all was said."""
    written, said = read_captions(config, paths), read_judgements(config, paths)
    yield from descriptions(config, records, written, said)


def descriptions(
    config: DataEngineConfig,
    records: Sequence[ClipRecord],
    written: CaptionsByClip,
    said: SaidByClip,
) -> Iterator[Description]:
    """The same from tables that were read already."""
    judges = judge_versions(config)
    for record in records:
        outcomes = outcomes_of(config, record, written)
        if outcomes is None:
            continue
        texts = judged_texts(config, captions_of(record, outcomes))
        by_text = {text: said.get((record.clip_id, caption_key(text)), {}) for text in texts}
        if all(by_judge.keys() >= judges.keys() for by_judge in by_text.values()):
            heard = {t: [by_judge[name] for name in judges] for t, by_judge in by_text.items()}
            yield described(record, outcomes, heard)


def outcomes_of(
    config: DataEngineConfig, record: ClipRecord, written: CaptionsByClip
) -> list[Written] | None:
    """What each captioner of the configuration made of a clip; None if one of them did not come to it."""
    found = written.get(record.clip_id, {})
    names = config.captions.captioners
    return [found[name] for name in names] if found.keys() >= set(names) else None


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


def _no_caption(findings: Sequence[CaptionFinding]) -> str:
    return "no caption: " + "; ".join(f"{f.step} {f.reason} ({f.detail})" for f in findings)
