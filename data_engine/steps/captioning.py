"""Captions of the clips that are still kept, what is said of the main one, and the named subsets."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from data_engine.append_only import CAPTIONS_KEY, JUDGEMENTS_KEY, compact, read_parts
from data_engine.caption_judging import (
    SaidByClip,
    caption_key,
    judge_versions,
    judgements_goal,
    read_judgements,
)
from data_engine.caption_writing import (
    CaptionsByClip,
    captioner_versions,
    captions_goal,
    read_captions,
)
from data_engine.config import DataEngineConfig
from data_engine.describing import (
    captions_of,
    check_chat_models,
    descriptions,
    judged_texts,
    outcomes_of,
)
from data_engine.filters import ALL_THRESHOLDS, CAPTION_THRESHOLDS, judge_captioned, passes
from data_engine.filters import resolve_percentiles as resolve
from data_engine.frame_workers import JudgeCaptions, WriteCaptions
from data_engine.ray_rows import OnProgress, map_rows
from data_engine.schema import ClipRecord, ClipStatus
from data_engine.scoring import check_scorers, scorer_versions
from data_engine.steps.scoring import scores_goal
from data_engine.steps.work import (
    CRASHED,
    NO_ANSWER,
    Counter,
    Patience,
    alone,
    each,
    is_done,
    missing_batches,
    save_config,
    unanswered,
    unfinished,
)
from data_engine.tables import (
    DatasetPaths,
    fingerprint,
    made_from,
    read_clips,
    remove_orphans,
    write_clips,
)
from data_engine.throughput import stage_clock


@alone
def caption_clips(config: DataEngineConfig, paths: DatasetPaths, on_progress: OnProgress) -> None:
    """Write the table of the clips that were kept, with captions; a caption that does not fit is a reason."""
    save_config(config, paths)
    check_scorers(config.scores)
    limits = {t.field: t.limit(config.filters) for t in CAPTION_THRESHOLDS}
    categories = (config.filters.categories, config.filters.no_categories)
    subsets = {name: chosen.as_subset().model_dump() for name, chosen in config.subsets.items()}
    goal = fingerprint(
        *("captioned", made_from(paths.deduplicated_clips)),
        *(captions_goal(config), judgements_goal(config)),
        *(captioner_versions(config), list(judge_versions(config).items())),
        *(list(config.captions.captioners), config.captions.judged, limits, categories, subsets),
    )
    if is_done(paths.captioned_clips, goal):
        return
    remove_orphans(paths.captions, paths.judgements)
    check_chat_models(config.captions, config.hallucination)
    records = [r for r in read_clips(paths.deduplicated_clips) if r.status is ClipStatus.KEPT]
    with_words = [r for r in records if config.captions.captioners or r.captions]
    written, said = read_captions(config, paths), read_judgements(config, paths)
    num_known = sum(1 for _ in descriptions(config, with_words, written, said))
    with stage_clock(paths, "caption", len(with_words) - num_known, "clips"):
        written, unwritten = write_missing_captions(config, paths, with_words, written, on_progress)
        said, unsaid = judge_missing_captions(
            config, paths, _texts_to_judge(config, with_words, written), said, on_progress
        )
    compact(paths.captions, captions_goal(config), CAPTIONS_KEY)
    compact(paths.judgements, judgements_goal(config), JUDGEMENTS_KEY)
    described = {d.clip_id: d for d in descriptions(config, with_words, written, said)}
    trouble = {clip_id: NO_ANSWER + why for clip_id, why in (unsaid | unwritten).items()}
    told = {
        r.clip_id: described[r.clip_id].applied_to(r)
        if r.clip_id in described
        else replace(r, error=trouble.get(r.clip_id, CRASHED))
        for r in with_words
    }
    decided = decide_with_captions([told.get(r.clip_id, r) for r in records], config)
    is_unfinished = len(described) < len(with_words)
    write_clips(paths.captioned_clips, decided, unfinished(goal, is_unfinished))


def write_missing_captions(
    config: DataEngineConfig,
    paths: DatasetPaths,
    records: Sequence[ClipRecord],
    written: CaptionsByClip,
    on_progress: OnProgress,
) -> tuple[CaptionsByClip, dict[str, str]]:
    """Have each captioner describe the clips that it has not described; what is known afterwards, and who got no answer."""
    goal, versions = captions_goal(config), captioner_versions(config)
    missing = missing_batches(records, versions, lambda r: written.get(r.clip_id, {}))
    if not missing:
        return written, {}
    texts = _texts_read(config, paths)

    def row(captioners: Sequence[str], clips: Sequence[ClipRecord]) -> dict[str, Any]:
        asked = {name: versions[name] for name in captioners}
        return {
            "key": fingerprint(goal, [clip.clip_id for clip in clips], asked),
            "source_id": clips[0].source_id,
            "records": [clip.to_json() for clip in clips],
            "texts": [texts.get(clip.clip_id, []) for clip in clips],
            "captioners": list(captioners),
        }

    def split(whole: dict[str, Any]) -> list[dict[str, Any]]:
        clips = [ClipRecord.from_json(text) for text in whole["records"]]
        return [row(whole["captioners"], [clip]) for clip in clips]

    num_done = len(records) - sum(len(batch) for _, batch in missing)
    counted = Counter("caption", len(records), "clips", on_progress, done=num_done)
    finished = map_rows(
        [row(names, batch) for names, batch in missing],
        partial(WriteCaptions, config=config, root=str(paths.root), made_from=goal),
        key="key",
        split=split,
        on_row=each(counted, Patience(config.workers)),
        num_gpus=config.workers.num_gpus,
    )
    return read_captions(config, paths), unanswered(finished.rows)


def judge_missing_captions(
    config: DataEngineConfig,
    paths: DatasetPaths,
    captioned: Sequence[tuple[ClipRecord, Sequence[str]]],
    said: SaidByClip,
    on_progress: OnProgress,
) -> tuple[SaidByClip, dict[str, str]]:
    """Have each judge hear the captions of clips that it has not heard; what is known afterwards, and who got no answer."""
    goal, versions = judgements_goal(config), judge_versions(config)

    def row(
        judges: Sequence[str], source_id: str, captions: Sequence[tuple[str, str]]
    ) -> dict[str, Any]:
        asked = {name: versions[name] for name in judges}
        clip_ids, texts = [clip_id for clip_id, _ in captions], [text for _, text in captions]
        return {
            "key": fingerprint(goal, clip_ids, texts, asked),
            "source_id": source_id,
            "clip_ids": clip_ids,
            "captions": texts,
            "judges": list(judges),
        }

    def split(whole: dict[str, Any]) -> list[dict[str, Any]]:
        pairs = zip(whole["clip_ids"], whole["captions"], strict=True)
        return [row(whole["judges"], whole["source_id"], [pair]) for pair in pairs]

    rows: list[dict[str, Any]] = []
    # By their place, so that another captioner at the end leaves the batches of those before it as they are.
    for place in range(max((len(texts) for _, texts in captioned), default=0)):
        heard = {r.clip_id: texts[place] for r, texts in captioned if len(texts) > place}
        missing = missing_batches(
            [record for record, _ in captioned if record.clip_id in heard],
            versions,
            lambda r, heard=heard: said.get((r.clip_id, caption_key(heard[r.clip_id])), {}),
        )
        rows += [
            row(names, batch[0].source_id, [(c.clip_id, heard[c.clip_id]) for c in batch])
            for names, batch in missing
        ]
    if not rows:
        return said, {}
    total = sum(len(texts) for _, texts in captioned)
    num_done = total - sum(len(row["captions"]) for row in rows)
    counted = Counter("judge", total, "captions", on_progress, done=num_done)
    finished = map_rows(
        rows,
        partial(JudgeCaptions, config=config, root=str(paths.root), made_from=goal),
        key="key",
        split=split,
        on_row=each(counted, Patience(config.workers)),
        num_gpus=config.workers.num_gpus,
    )
    return read_judgements(config, paths), unanswered(finished.rows)


def _texts_to_judge(
    config: DataEngineConfig, records: Iterable[ClipRecord], written: CaptionsByClip
) -> list[tuple[ClipRecord, tuple[str, ...]]]:
    """The clips that have captions, with their texts. Where a captioner crashed, the first may yet be another one."""
    outcomes = ((record, outcomes_of(config, record, written)) for record in records)
    captions = ((record, captions_of(record, o)) for record, o in outcomes if o is not None)
    return [(record, judged_texts(config, found)) for record, found in captions if found]


def _texts_read(config: DataEngineConfig, paths: DatasetPaths) -> dict[str, list[str]]:
    version = scorer_versions(config.scores).get("text")
    columns = ["clip_id", "scorer", "version", "texts"]
    rows = read_parts(paths.scores, scores_goal(config), columns)
    return {
        row["clip_id"]: row["texts"]
        for row in rows
        if row["scorer"] == "text" and row["version"] == version
    }


def decide_with_captions(
    records: Sequence[ClipRecord], config: DataEngineConfig
) -> list[ClipRecord]:
    """Only what needs a caption is judged: the other filters had their say, and may have had other limits."""
    filters = resolve(config.filters, records, CAPTION_THRESHOLDS)
    decided = [judge_captioned(record, filters) for record in records]
    kept = [record for record in decided if record.status is ClipStatus.KEPT]
    subsets = {
        name: resolve(chosen.as_subset(), kept, ALL_THRESHOLDS)
        for name, chosen in config.subsets.items()
    }
    return [
        replace(record, subsets=tuple(name for name, s in subsets.items() if passes(record, s)))
        if record.status is ClipStatus.KEPT
        else record
        for record in decided
    ]
