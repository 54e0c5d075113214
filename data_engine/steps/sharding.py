"""Encode what is kept, once, and pack it into tars."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from json import loads
from pathlib import Path
from typing import Any

from data_engine.buckets import encoded_size
from data_engine.captioning.chat import HOW_TO_REACH, HOW_TO_RUN
from data_engine.config import DataEngineConfig
from data_engine.cutting import ENCODER_VERSION
from data_engine.ray_rows import OnProgress, map_rows, threads_for
from data_engine.schema import MANIFEST_NAME, ClipRecord, ClipStatus, ShardManifest
from data_engine.shard_writer import (
    EncodedClip,
    PlannedShard,
    plan_shards,
    read_receipt,
    remove_other_shards,
)
from data_engine.steps.work import (
    CRASHED,
    NO_ANSWER,
    Counter,
    Patience,
    alone,
    batches,
    each,
    is_done,
    save_config,
    unanswered,
    unfinished,
)
from data_engine.tables import (
    DatasetPaths,
    fingerprint,
    made_from,
    read_clips,
    read_sources,
    remove_orphans,
    write_clips,
    write_text,
)
from data_engine.throughput import stage_clock
from data_engine.workers import EncodeClips, WriteShard


@alone
def write_shards(config: DataEngineConfig, paths: DatasetPaths, on_progress: OnProgress) -> None:
    """Encode the clips that are still kept, pack them into tars, and write the manifest."""
    save_config(config, paths)
    goal = fingerprint("shards", made_from(paths.captioned_clips), config.shards, ENCODER_VERSION)
    if not _tars_are_there(paths):
        paths.sharded_clips.unlink(missing_ok=True)
    if is_done(paths.sharded_clips, goal):
        return
    remove_orphans(paths.shards, *(paths.root / "encoded").glob("*"))
    (paths.shards / MANIFEST_NAME).unlink(missing_ok=True)
    records = [r for r in read_clips(paths.captioned_clips) if r.status is ClipStatus.KEPT]
    files = {record.clip_id: _encoded(record, config, paths) for record in records}
    failed, again = _encode(config, paths, records, files, on_progress)
    encoded = [
        EncodedClip(r, files[r.clip_id], files[r.clip_id].stat().st_size)
        for r in records
        if r.clip_id not in failed
    ]
    plan = plan_shards(encoded, config.shards)
    crashed = _pack(paths, plan, on_progress)
    entries = [receipt.entry for s in plan if (receipt := read_receipt(paths.shards / s.name))]
    lost = {clip.record.clip_id for s in plan if s.name in crashed for clip in s.clips}
    failed |= dict.fromkeys(lost, CRASHED)
    remove_other_shards(paths.shards, (entry.name for entry in entries))
    manifest = ShardManifest(shards=tuple(entries), config=_decides_bytes(config))
    write_text(paths.shards / MANIFEST_NAME, manifest.to_json() + "\n")
    sharded = (replace(r, error=failed.get(r.clip_id)) for r in records)
    is_unfinished = bool(again or crashed)
    write_clips(paths.sharded_clips, sharded, unfinished(goal, is_unfinished))
    if not config.shards.keep_encoded and not is_unfinished:
        shutil.rmtree(paths.root / "encoded", ignore_errors=True)


def _decides_bytes(config: DataEngineConfig) -> dict[str, Any]:
    """The configuration without what says only where and how the work is done."""
    chat = dict.fromkeys(("endpoint", "question_endpoint"), HOW_TO_REACH)
    chat |= dict.fromkeys(("vlm", "llm", "transformers"), HOW_TO_RUN)
    elsewhere: Any = {
        "workers": True,
        "probe": {"max_probe_s"},
        "decode": {"max_stall_s", "part_s"},
        "captions": chat,
        "hallucination": chat,
        "shards": {"keep_encoded"},
    }
    return config.model_dump(mode="json", exclude=elsewhere)


def _encoded(record: ClipRecord, config: DataEngineConfig, paths: DatasetPaths) -> Path:
    """Named by all that its bytes depend on."""
    size = encoded_size(record, config.shards)
    return paths.encoded(
        fingerprint(
            record.clip_id,
            record.crop,
            size,
            config.shards.crf,
            config.shards.copy_streams,
            ENCODER_VERSION,
        )
    )


def _encode(
    config: DataEngineConfig,
    paths: DatasetPaths,
    records: list[ClipRecord],
    files: Mapping[str, Path],
    on_progress: OnProgress,
) -> tuple[dict[str, str], set[str]]:
    """Make the files that are not there yet. Why clips failed, and which of them another run may have more luck with."""
    locations = {source.source_id: source.location for source in read_sources(paths.sources)}

    def row(batch: list[ClipRecord]) -> dict[str, Any]:
        return {
            "key": fingerprint([str(files[record.clip_id]) for record in batch]),
            "location": locations[batch[0].source_id],
            "records": [record.to_json() for record in batch],
            "files": [str(files[record.clip_id]) for record in batch],
        }

    def split(whole: dict[str, Any]) -> list[dict[str, Any]]:
        return [row([ClipRecord.from_json(text)]) for text in whole["records"]]

    todo = [record for record in records if not files[record.clip_id].exists()]
    num_done = len(records) - len(todo)
    counted = Counter("encode", len(records), "clips", on_progress, done=num_done)
    rows = [row(batch) for batch in batches(todo)]
    settings = {"config": config, "num_threads": threads_for(rows)}
    with stage_clock(paths, "encode", sum(r.duration_s for r in todo), "s of video"):
        finished = map_rows(
            rows,
            partial(EncodeClips, **settings),
            key="key",
            split=split,
            on_row=each(counted, Patience(config.workers)),
        )
    failed: dict[str, str] = {}
    for done in finished.rows:
        failed |= loads(done["failed"])
    crashed = {ClipRecord.from_json(t).clip_id for r in finished.crashed for t in r["records"]}
    trouble = {clip_id: NO_ANSWER + why for clip_id, why in unanswered(finished.rows).items()}
    return failed | trouble | dict.fromkeys(crashed, CRASHED), crashed | trouble.keys()


def _pack(paths: DatasetPaths, plan: list[PlannedShard], on_progress: OnProgress) -> set[str]:
    """Write the tars that are not there yet; the names of those whose worker crashed."""
    goals = {
        shard.name: fingerprint(
            shard.bucket,
            [(clip.record.to_json(), clip.path.name, clip.size_bytes) for clip in shard.clips],
        )
        for shard in plan
    }
    todo = [
        shard
        for shard in plan
        if (receipt := read_receipt(paths.shards / shard.name)) is None
        or receipt.made_from != goals[shard.name]
    ]
    rows = [
        {
            "name": shard.name,
            "bucket": shard.bucket,
            "records": [clip.record.to_json() for clip in shard.clips],
            "files": [str(clip.path) for clip in shard.clips],
        }
        for shard in todo
    ]
    total = sum(len(shard.clips) for shard in plan)
    num_done = total - sum(len(shard.clips) for shard in todo)
    counted = Counter("shard", total, "clips", on_progress, done=num_done)
    settings = {"root": str(paths.root), "made_from": goals}
    with stage_clock(paths, "shard", total - num_done, "clips"):
        finished = map_rows(rows, partial(WriteShard, **settings), key="name", on_row=counted)
    return {row["name"] for row in finished.crashed}


def _tars_are_there(paths: DatasetPaths) -> bool:
    """Whether every tar of the manifest has its size: one may have been deleted by hand, or copied in part."""
    path = paths.shards / MANIFEST_NAME
    if not path.exists():
        return False
    tars = [
        (paths.shards / entry.name, entry.size_bytes)
        for entry in ShardManifest.from_json(path.read_bytes()).shards
    ]
    return all(tar.exists() and tar.stat().st_size == size_bytes for tar, size_bytes in tars)
