"""Captions of the clips that are still kept, how well each agrees with the frames, and the named subsets."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from data_engine.config import DataEngineConfig
from data_engine.describing import Description, captions_goal, check_chat_models, read_descriptions
from data_engine.filters import ALL_THRESHOLDS, CAPTION_THRESHOLDS, judge, rejection
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
from data_engine.workers import DescribeClips


@alone
def caption_clips(config: DataEngineConfig, paths: DatasetPaths, on_progress: OnProgress) -> None:
    """Write the table of the clips that were kept, with captions; a caption that does not fit is a reason."""
    save_config(config, paths)
    check_scorers(config.scores)
    parts_goal = captions_goal(config)
    limits = {t.field: t.limit(config.filters) for t in CAPTION_THRESHOLDS}
    goal = fingerprint(
        "captioned", made_from(paths.deduplicated_clips), parts_goal, limits, config.subsets
    )
    if is_done(paths.captioned_clips, goal):
        return
    check_chat_models(config.captions, config.hallucination)
    records = [r for r in read_clips(paths.deduplicated_clips) if r.status is ClipStatus.KEPT]
    done = {row["clip_id"] for row in read_parts(paths.captions, parts_goal, ["clip_id"])}
    texts = _texts_read(config, paths)
    todo = [r for r in records if _has_words(r, config) and r.clip_id not in done]
    rows = [
        _row(parts_goal, [record.to_json() for record in batch], batch, texts)
        for batch in batches(todo)
    ]

    def split(row: dict[str, Any]) -> list[dict[str, Any]]:
        clips = [ClipRecord.from_json(text) for text in row["records"]]
        return [_row(parts_goal, [clip.to_json()], [clip], texts) for clip in clips]

    settings = {"config": config, "root": str(paths.root), "made_from": parts_goal}
    counted = Counter("caption", len(records), "clips", on_progress, done=len(done))
    with stage_clock(paths, "caption", len(todo), "clips"):
        finished = map_rows(
            rows,
            partial(DescribeClips, **settings),
            key="key",
            split=split,
            on_row=counted,
            num_gpus=config.workers.num_gpus,
        )
    described = {d.clip_id: d for d in read_descriptions(config, paths)}
    captioned = [
        _with_caption(r, described.get(r.clip_id)) if _has_words(r, config) else r for r in records
    ]
    decided = decide_with_captions(captioned, config)
    write_clips(paths.captioned_clips, decided, unfinished(goal, bool(finished.crashed)))


def _row(
    goal: str, records: list[str], clips: Sequence[ClipRecord], texts: dict[str, list[str]]
) -> dict[str, Any]:
    return {
        "key": fingerprint(goal, [clip.clip_id for clip in clips]),
        "source_id": clips[0].source_id,
        "records": records,
        "texts": [texts.get(clip.clip_id, []) for clip in clips],
    }


def _texts_read(config: DataEngineConfig, paths: DatasetPaths) -> dict[str, list[str]]:
    version = scorer_versions(config.scores).get("text")
    columns = ["clip_id", "scorer", "version", "texts"]
    rows = read_parts(paths.scores, scores_goal(config), columns)
    return {
        row["clip_id"]: row["texts"]
        for row in rows
        if row["scorer"] == "text" and row["version"] == version
    }


def _has_words(record: ClipRecord, config: DataEngineConfig) -> bool:
    """Whether there is, or will be, a caption of which something can be said."""
    return bool(config.captions.captioners or record.captions)


def _with_caption(record: ClipRecord, described: Description | None) -> ClipRecord:
    if described is None:
        return replace(record, error=CRASHED)
    return described.applied_to(record)


def decide_with_captions(
    records: Sequence[ClipRecord], config: DataEngineConfig
) -> list[ClipRecord]:
    """Only what needs a caption is judged: the other filters had their say, and may have had other limits."""
    filters = resolve(config.filters, records, CAPTION_THRESHOLDS)
    decided = [judge(record, filters, CAPTION_THRESHOLDS) for record in records]
    kept = [record for record in decided if record.status is ClipStatus.KEPT]
    subsets = {name: resolve(s, kept, ALL_THRESHOLDS) for name, s in config.subsets.items()}
    return [
        replace(
            record,
            subsets=tuple(
                name for name, s in subsets.items() if not rejection(record, s, ALL_THRESHOLDS)
            ),
        )
        if record.status is ClipStatus.KEPT
        else record
        for record in decided
    ]
