"""Captions of the clips that are still kept, what is said of the main one, and the named subsets."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

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
    Description,
    captions_of,
    check_chat_models,
    descriptions,
    outcomes_of,
)
from data_engine.filters import ALL_THRESHOLDS, CAPTION_THRESHOLDS, judge_captioned, passes
from data_engine.filters import resolve_percentiles as resolve
from data_engine.ray_rows import OnProgress, map_rows
from data_engine.schema import ClipRecord, ClipStatus
from data_engine.scoring import check_scorers, scorer_versions
from data_engine.steps.scoring import scores_goal
from data_engine.steps.work import (
    CRASHED,
    Counter,
    alone,
    batches,
    is_done,
    save_config,
    unfinished,
)
from data_engine.tables import (
    DatasetPaths,
    fingerprint,
    made_from,
    read_clips,
    read_parts,
    write_clips,
)
from data_engine.throughput import stage_clock
from data_engine.workers import JudgeCaptions, WriteCaptions


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
        *(list(config.captions.captioners), limits, categories, subsets),
    )
    if is_done(paths.captioned_clips, goal):
        return
    check_chat_models(config.captions, config.hallucination)
    records = [r for r in read_clips(paths.deduplicated_clips) if r.status is ClipStatus.KEPT]
    with_words = [r for r in records if config.captions.captioners or r.captions]
    written, said = read_captions(config, paths), read_judgements(config, paths)
    num_known = sum(1 for _ in descriptions(config, with_words, written, said))
    with stage_clock(paths, "caption", len(with_words) - num_known, "clips"):
        written = write_missing_captions(config, paths, with_words, written, on_progress)
        said = judge_missing_captions(
            config, paths, _main_captions(config, with_words, written), said, on_progress
        )
    described = {d.clip_id: d for d in descriptions(config, with_words, written, said)}
    told = {r.clip_id: _with_caption(r, described.get(r.clip_id)) for r in with_words}
    decided = decide_with_captions([told.get(r.clip_id, r) for r in records], config)
    has_crashed = len(described) < len(with_words)
    write_clips(paths.captioned_clips, decided, unfinished(goal, has_crashed))


def write_missing_captions(
    config: DataEngineConfig,
    paths: DatasetPaths,
    records: Sequence[ClipRecord],
    written: CaptionsByClip,
    on_progress: OnProgress,
) -> CaptionsByClip:
    """Have each captioner describe the clips that it has not described; what is known afterwards."""
    goal, versions = captions_goal(config), captioner_versions(config)
    missing = _by_missing(records, versions, lambda r: written.get(r.clip_id, {}))
    if not missing:
        return written
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

    num_done = len(records) - sum(map(len, missing.values()))
    map_rows(
        [row(names, batch) for names, clips in missing.items() for batch in batches(clips)],
        partial(WriteCaptions, config=config, root=str(paths.root), made_from=goal),
        key="key",
        split=split,
        on_row=Counter("caption", len(records), "clips", on_progress, done=num_done),
        num_gpus=config.workers.num_gpus,
    )
    return read_captions(config, paths)


def judge_missing_captions(
    config: DataEngineConfig,
    paths: DatasetPaths,
    captioned: Sequence[tuple[ClipRecord, str]],
    said: SaidByClip,
    on_progress: OnProgress,
) -> SaidByClip:
    """Have each judge hear the captions (clip, text) that it has not heard; what is known afterwards."""
    goal, versions = judgements_goal(config), judge_versions(config)
    texts = {record.clip_id: text for record, text in captioned}
    missing = _by_missing(
        [record for record, _ in captioned],
        versions,
        lambda r: said.get((r.clip_id, caption_key(texts[r.clip_id])), {}),
    )
    if not missing:
        return said

    def row(judges: Sequence[str], source_id: str, clip_ids: Sequence[str]) -> dict[str, Any]:
        asked = {name: versions[name] for name in judges}
        captions = [texts[clip_id] for clip_id in clip_ids]
        return {
            "key": fingerprint(goal, list(clip_ids), captions, asked),
            "source_id": source_id,
            "clip_ids": list(clip_ids),
            "captions": captions,
            "judges": list(judges),
        }

    def split(whole: dict[str, Any]) -> list[dict[str, Any]]:
        return [row(whole["judges"], whole["source_id"], [c]) for c in whole["clip_ids"]]

    num_done = len(captioned) - sum(map(len, missing.values()))
    map_rows(
        [
            row(names, batch[0].source_id, [clip.clip_id for clip in batch])
            for names, clips in missing.items()
            for batch in batches(clips)
        ],
        partial(JudgeCaptions, config=config, root=str(paths.root), made_from=goal),
        key="key",
        split=split,
        on_row=Counter("judge", len(captioned), "captions", on_progress, done=num_done),
        num_gpus=config.workers.num_gpus,
    )
    return read_judgements(config, paths)


def _by_missing(
    records: Iterable[ClipRecord],
    names: Iterable[str],
    known: Callable[[ClipRecord], Any],
) -> dict[tuple[str, ...], list[ClipRecord]]:
    """The clips of which something is missing, by the names of what it is."""
    missing: dict[tuple[str, ...], list[ClipRecord]] = defaultdict(list)
    for record in records:
        found = known(record)
        missing[tuple(name for name in names if name not in found)].append(record)
    missing.pop((), None)
    return missing


def _main_captions(
    config: DataEngineConfig, records: Iterable[ClipRecord], written: CaptionsByClip
) -> list[tuple[ClipRecord, str]]:
    """The clips that have a caption, with the first. Where a captioner crashed, that may yet be another one."""
    outcomes = ((record, outcomes_of(config, record, written)) for record in records)
    captions = ((record, captions_of(record, o)) for record, o in outcomes if o is not None)
    return [(record, found[0].text) for record, found in captions if found]


def _texts_read(config: DataEngineConfig, paths: DatasetPaths) -> dict[str, list[str]]:
    version = scorer_versions(config.scores).get("text")
    columns = ["clip_id", "scorer", "version", "texts"]
    rows = read_parts(paths.scores, scores_goal(config), columns)
    return {
        row["clip_id"]: row["texts"]
        for row in rows
        if row["scorer"] == "text" and row["version"] == version
    }


def _with_caption(record: ClipRecord, described: Description | None) -> ClipRecord:
    if described is None:
        return replace(record, error=CRASHED)
    return described.applied_to(record)


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
