"""The data engine, top to bottom: from source videos to shards.

    probe_sources   what is there, and what can be read
    score_clips     decode once: shots, clips, cheap scores; then the expensive scores of the survivors
    caption_clips   captions, and how well they agree with the frames
    write_shards    encode the survivors and pack them

Each step reads tables and writes tables (`tables.py`), sees what is done already, and may be killed at any
moment: run again, it goes on where it was. Only this module and `ray_rows` know Ray, which the caller starts.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from data_engine.config import DataEngineConfig
from data_engine.describing import check_models
from data_engine.filters import ALL_THRESHOLDS, CHEAP_THRESHOLDS, EXPENSIVE_THRESHOLDS, judge
from data_engine.ray_rows import OnProgress, Progress, map_rows, progress_board
from data_engine.report import RunReport, summarize, write_report
from data_engine.schema import (
    MANIFEST_NAME,
    Caption,
    ClipRecord,
    ClipStatus,
    QuarantinedSource,
    Score,
    ShardEntry,
    ShardManifest,
    SourceVideo,
)
from data_engine.scoring import FRAME_SCORERS
from data_engine.shard_writer import plan_shards, read_receipt, remove_other_shards, shard_name
from data_engine.sources import list_sources
from data_engine.tables import (
    QUARANTINE,
    SOURCES,
    DatasetPaths,
    fingerprint,
    is_made_from,
    made_from,
    read_clips,
    read_parts,
    read_quarantine,
    read_sources,
    rows_of,
    write_clips,
    write_table,
    write_text,
)
from data_engine.workers import CutSource, DescribeClips, ProbeSource, ScoreFrames, WriteShard

_CLIPS_PER_ROW = 8
_CRASHED = "the worker process died twice while it worked on this clip"


def curate(
    config: DataEngineConfig, source: str, dataset: Path, on_progress: OnProgress
) -> RunReport:
    """Turn source videos into a data set. What is done already is not done again.

    Raises:
        JobError: the sources or the weights of a model are missing, or the tables are of another version.
    """
    paths = DatasetPaths(dataset)
    # Before hours of decoding, since captions come last.
    check_models(config.scores)
    probe_sources(config, source, paths, on_progress)
    score_clips(config, paths, on_progress)
    caption_clips(config, paths, on_progress)
    write_shards(config, paths, on_progress)
    write_report(config, paths)
    return summarize(paths)


def probe_sources(
    config: DataEngineConfig, source: str, paths: DatasetPaths, on_progress: OnProgress
) -> None:
    """Write the table of readable sources, and the quarantine of the others with their reasons."""
    _save_config(config, paths)
    files = list_sources(source)
    stamps = [(f.uri, f.attribution, *_stamp(f.path)) for f in files]
    goal = fingerprint("sources", config.probe, stamps)
    if is_made_from(paths.sources, goal):
        return
    rows = [{"uri": file.uri, "attribution": file.attribution} for file in files]
    counted = _Counter("probe", len(rows), "sources", on_progress)
    finished = map_rows(rows, ProbeSource, {"config": config}, key="uri", on_row=counted)
    readable: dict[str, SourceVideo] = {}
    quarantined = [
        QuarantinedSource(uri=uri, reason="crashed", detail="the worker process died while probing")
        for uri in finished.crashed
    ]
    for row in sorted(finished.rows, key=lambda row: row["uri"]):
        if row["source"] is None:
            quarantined.append(
                QuarantinedSource(uri=row["uri"], reason=row["reason"], detail=row["detail"])
            )
            continue
        found = SourceVideo.from_json(row["source"])
        first = readable.setdefault(found.source_id, found)
        if first is not found:
            quarantined.append(
                QuarantinedSource(
                    uri=found.uri, reason="duplicate", detail=f"same content as {first.uri}"
                )
            )
    write_table(paths.quarantine, rows_of(quarantined), QUARANTINE, goal)
    write_table(paths.sources, rows_of(readable.values()), SOURCES, goal)


def score_clips(config: DataEngineConfig, paths: DatasetPaths, on_progress: OnProgress) -> None:
    """Write the table of all clips with their scores and the decisions that follow from them."""
    _save_config(config, paths)
    goal = fingerprint(
        "scored",
        made_from(paths.sources),
        config.shots,
        config.decode,
        config.filters,
        FRAME_SCORERS,
    )
    if is_made_from(paths.scored_clips, goal):
        return
    records = [judge(r, config, CHEAP_THRESHOLDS) for r in _cut(config, paths, on_progress)]
    survivors = [record for record in records if record.status is ClipStatus.KEPT]
    scores, crashed = _score_frames(config, paths, survivors, on_progress)
    scored = {
        record.clip_id: replace(record, error=_CRASHED)
        if record.clip_id in crashed
        else judge(
            record.with_scores(scores[record.clip_id]),
            config,
            (*CHEAP_THRESHOLDS, *EXPENSIVE_THRESHOLDS),
        )
        for record in survivors
    }
    write_clips(paths.scored_clips, [scored.get(r.clip_id, r) for r in records], goal)


def caption_clips(config: DataEngineConfig, paths: DatasetPaths, on_progress: OnProgress) -> None:
    """Write the table of the clips that were kept, with captions; a caption that does not fit is a reason."""
    _save_config(config, paths)
    goal = fingerprint(
        "captioned", made_from(paths.scored_clips), config.captions, config.scores, config.filters
    )
    if is_made_from(paths.captioned_clips, goal):
        return
    check_models(config.scores)
    records = [r for r in read_clips(paths.scored_clips) if r.status is ClipStatus.KEPT]
    parts_goal = fingerprint("captions", config.decode, config.captions, config.scores)
    done = {row["clip_id"] for row in read_parts(paths.captions, parts_goal)}
    texts = _texts_read(config, paths)
    rows = [
        {
            "key": fingerprint(parts_goal, [r.clip_id for r in batch]),
            "source_id": batch[0].source_id,
            "records": [r.to_json() for r in batch],
            "texts": [texts.get(r.clip_id, []) for r in batch],
        }
        for batch in _batches(r for r in records if r.clip_id not in done)
    ]
    settings = {"config": config, "root": str(paths.root), "made_from": parts_goal}
    counted = _Counter("caption", len(records), "clips", on_progress, done=len(done))
    map_rows(rows, DescribeClips, settings, key="key", on_row=counted)
    described = {row["clip_id"]: row for row in read_parts(paths.captions, parts_goal)}
    captioned = (_with_caption(record, described.get(record.clip_id), config) for record in records)
    write_clips(paths.captioned_clips, captioned, goal)


def write_shards(config: DataEngineConfig, paths: DatasetPaths, on_progress: OnProgress) -> None:
    """Encode the clips that are still kept, pack them into tars, and write the manifest."""
    _save_config(config, paths)
    goal = fingerprint("shards", made_from(paths.captioned_clips), config.shards)
    if is_made_from(paths.sharded_clips, goal) and (paths.shards / MANIFEST_NAME).exists():
        return
    records = [r for r in read_clips(paths.captioned_clips) if r.status is ClipStatus.KEPT]
    plan = {shard_name(i): clips for i, clips in enumerate(plan_shards(records, config.shards))}
    goals = {
        name: fingerprint(config.shards, [record.to_dict() for record in clips])
        for name, clips in plan.items()
    }
    locations = {source.source_id: source.location for source in read_sources(paths.sources)}
    rows = [
        {
            "name": name,
            "records": [record.to_json() for record in clips],
            "locations": [locations[record.source_id] for record in clips],
        }
        for name, clips in plan.items()
        if not _is_written(paths, name, goals[name])
    ]
    num_done = sum(len(plan[name]) for name in plan) - sum(len(row["records"]) for row in rows)
    settings = {"config": config, "root": str(paths.root), "made_from": goals}
    counted = _Counter("shard", len(records), "clips", on_progress, done=num_done)
    map_rows(rows, WriteShard, settings, key="name", on_row=counted)
    failed: dict[str, str] = {}
    entries: list[ShardEntry] = []
    for name, clips in plan.items():
        receipt = read_receipt(paths.shards / name)
        if receipt is None or receipt.made_from != goals[name]:
            failed |= {record.clip_id: _CRASHED for record in clips}
            continue
        failed |= receipt.failed
        if receipt.entry.samples:
            entries.append(receipt.entry)
    manifest = ShardManifest(shards=tuple(entries), config=config.model_dump(mode="json"))
    remove_other_shards(paths.shards, (entry.name for entry in entries))
    write_text(paths.shards / MANIFEST_NAME, manifest.to_json() + "\n")
    sharded = (replace(r, error=failed.get(r.clip_id)) for r in records)
    write_clips(paths.sharded_clips, sharded, goal)


def _cut(
    config: DataEngineConfig, paths: DatasetPaths, on_progress: OnProgress
) -> list[ClipRecord]:
    """Every clip of every source. A source that stops decoding goes to the quarantine."""
    sources = read_sources(paths.sources)
    goals = {
        source.source_id: fingerprint("cut", asdict(source), config.shots, config.decode)
        for source in sources
    }
    todo = [s for s in sources if not is_made_from(paths.cuts(s.source_id), goals[s.source_id])]
    # The longest first: a long film that starts last is what everybody waits for at the end.
    todo.sort(key=lambda source: -source.duration_s)
    rows = [{"source_id": source.source_id, "source": source.to_json()} for source in todo]
    with progress_board("cut", sum(s.duration_s for s in todo), "s", on_progress) as post:
        settings = {"config": config, "root": str(paths.root), "made_from": goals, "post": post}
        finished = map_rows(rows, CutSource, settings, key="source_id")
    failures = {row["source_id"]: row for row in finished.rows if row["reason"] is not None}
    for source_id in finished.crashed:
        failures[source_id] = {
            "reason": "crashed",
            "detail": "the decoder killed its process twice",
        }
    _add_to_quarantine(paths, [s for s in sources if s.source_id in failures], failures)
    return [
        record
        for source in sources
        if source.source_id not in failures
        for record in read_clips(paths.cuts(source.source_id))
    ]


def _add_to_quarantine(
    paths: DatasetPaths, sources: Sequence[SourceVideo], failures: dict[str, dict[str, Any]]
) -> None:
    known = {row.uri: row for row in read_quarantine(paths.quarantine)}
    for source in sources:
        failure = failures[source.source_id]
        known[source.uri] = QuarantinedSource(
            uri=source.uri, reason=failure["reason"], detail=failure["detail"]
        )
    write_table(paths.quarantine, rows_of(known.values()), QUARANTINE, made_from(paths.quarantine))


def _score_frames(
    config: DataEngineConfig,
    paths: DatasetPaths,
    records: Sequence[ClipRecord],
    on_progress: OnProgress,
) -> tuple[dict[str, dict[str, Score]], set[str]]:
    """The expensive scores of these clips, by clip; and the clips whose worker crashed."""
    goal = fingerprint("scores", config.decode)
    known = {
        (row["clip_id"], row["scorer"])
        for row in read_parts(paths.scores, goal)
        if FRAME_SCORERS.get(row["scorer"]) == row["backend"]
    }
    missing: dict[tuple[str, ...], list[ClipRecord]] = defaultdict(list)
    for record in records:
        missing[tuple(s for s in FRAME_SCORERS if (record.clip_id, s) not in known)].append(record)
    num_done = len(missing.pop((), []))
    rows = [
        {
            "key": fingerprint(goal, scorers, [r.clip_id for r in batch]),
            "source_id": batch[0].source_id,
            "clip_ids": [r.clip_id for r in batch],
            "scorers": list(scorers),
        }
        for scorers, clips in missing.items()
        for batch in _batches(clips)
    ]
    settings = {"root": str(paths.root), "made_from": goal}
    counted = _Counter("score", len(records), "clips", on_progress, done=num_done)
    finished = map_rows(rows, ScoreFrames, settings, key="key", on_row=counted)
    lost = set(finished.crashed)
    crashed = {clip_id for row in rows if row["key"] in lost for clip_id in row["clip_ids"]}
    scores: dict[str, dict[str, Score]] = defaultdict(dict)
    for row in read_parts(paths.scores, goal):
        if FRAME_SCORERS.get(row["scorer"]) == row["backend"] and row["value"] is not None:
            score = Score(value=row["value"], backend=row["backend"])
            scores[row["clip_id"]][row["scorer"]] = score
    return scores, crashed


def _texts_read(config: DataEngineConfig, paths: DatasetPaths) -> dict[str, list[str]]:
    rows = read_parts(paths.scores, fingerprint("scores", config.decode))
    return {row["clip_id"]: row["texts"] for row in rows if row["scorer"] == "text_area"}


def _with_caption(
    record: ClipRecord, row: dict[str, Any] | None, config: DataEngineConfig
) -> ClipRecord:
    if row is None:
        return replace(record, error=_CRASHED)
    captioned = replace(
        record.with_scores({row["similarity_name"]: Score(**row["similarity"])}),
        captions=(*record.captions, Caption(**row["caption"])),
    )
    return judge(captioned, config, ALL_THRESHOLDS)


def _is_written(paths: DatasetPaths, name: str, goal: str) -> bool:
    receipt = read_receipt(paths.shards / name)
    return receipt is not None and receipt.made_from == goal


def _batches(records: Iterable[ClipRecord]) -> list[list[ClipRecord]]:
    """Clips of one source together, because their frames lie in one file."""
    by_source: dict[str, list[ClipRecord]] = defaultdict(list)
    for record in records:
        by_source[record.source_id].append(record)
    return [
        clips[i : i + _CLIPS_PER_ROW]
        for clips in by_source.values()
        for i in range(0, len(clips), _CLIPS_PER_ROW)
    ]


def _save_config(config: DataEngineConfig, paths: DatasetPaths) -> None:
    text = config.model_dump_json(indent=1) + "\n"
    if not paths.config.exists() or paths.config.read_text() != text:
        write_text(paths.config, text)


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


class _Counter:
    """Counts finished rows towards the progress of a step."""

    def __init__(
        self, step: str, total: int, unit: str, on_progress: OnProgress, done: int = 0
    ) -> None:
        self._step, self._total, self._unit, self._done = step, total, unit, done
        self._on_progress = on_progress

    def __call__(self, row: dict[str, Any]) -> None:
        self._done += row.get("num_clips", 1)
        self._on_progress(Progress(self._step, self._done, self._total, self._unit))
