"""Decode once: shots, clips and cheap scores; then the scores of kept frames for the clips that the cheap ones keep."""

import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from data_engine.append_only import SCORES_KEY, compact, read_parts
from data_engine.config import DataEngineConfig
from data_engine.decode import CUT_VERSION
from data_engine.filters import BEFORE_FRAMES, judge, resolve_percentiles
from data_engine.frame_workers import ScoreFrames
from data_engine.parts import PartFolder
from data_engine.ray_rows import Finished, OnProgress, map_rows, progress_board, threads_for
from data_engine.schema import ClipRecord, ClipStatus, QuarantinedSource, Score, SourceVideo
from data_engine.scoring import check_scorers, embedding_version, scorer_versions
from data_engine.steps.work import (
    CRASHED,
    Counter,
    Patience,
    alone,
    is_done,
    missing_batches,
    save_config,
    unanswered,
    unfinished,
)
from data_engine.tables import (
    QUARANTINE,
    DatasetPaths,
    fingerprint,
    is_made_from,
    made_from,
    num_damaged,
    read_clips,
    read_sources,
    remove_orphans,
    rows_of,
    write_clips,
    write_counts,
    write_table,
)
from data_engine.throughput import stage_clock
from data_engine.workers import REST, CutSource, part_key

# PQ and HLG.
_HDR_TRANSFERS = frozenset({"smpte2084", "arib-std-b67"})


@alone
def score_clips(config: DataEngineConfig, paths: DatasetPaths, on_progress: OnProgress) -> None:
    """Write the table of all clips with their scores. It holds no decision but for clips that crashed a worker."""
    save_config(config, paths)
    check_scorers(config.scores)
    cheap_limits = {t.field: t.limit(config.filters) for t in BEFORE_FRAMES}
    goal = fingerprint(
        *("scored", made_from(paths.sources), *_cut_from(config)),
        *(cheap_limits, scorer_versions(config.scores)),
    )
    if is_done(paths.scored_clips, goal):
        return
    remove_orphans(paths.root / "cuts", paths.scores)
    records, is_cut_unfinished = _cut(config, paths, on_progress)
    filters = resolve_percentiles(config.filters, records, BEFORE_FRAMES)
    survivors = [r for r in records if judge(r, filters, BEFORE_FRAMES).status is ClipStatus.KEPT]
    scores, crashed = _score_frames(config, paths, survivors, on_progress)
    scored = (
        replace(record, error=CRASHED)
        if record.clip_id in crashed
        else record.with_scores(scores.get(record.clip_id, {}))
        for record in records
    )
    write_clips(paths.scored_clips, scored, unfinished(goal, bool(crashed) or is_cut_unfinished))


def _cut(
    config: DataEngineConfig, paths: DatasetPaths, on_progress: OnProgress
) -> tuple[list[ClipRecord], bool]:
    """Every clip of every source, and whether another run may find more: where a decoder crashed, or storage gave no answer.

    What stops decoding is quarantined.
    """
    sources = read_sources(paths.sources)
    goals = {
        source.source_id: fingerprint("cut", source.source_id, *_cut_from(config))
        for source in sources
    }

    def is_cut(source: SourceVideo) -> bool:
        return is_made_from(paths.cuts(source.source_id), goals[source.source_id])

    todo = [source for source in sources if not is_cut(source)]
    # The longest first: a long film that starts last is what everybody waits for at the end.
    todo.sort(key=lambda source: -source.duration_s)
    part_s = config.decode.part_s
    folders = {s.source_id: PartFolder(paths, s, part_s, goals[s.source_id]) for s in todo}
    for folder in folders.values():
        folder.remove_orphans()
    rows = [row for source in todo for row in _cut_rows(source, folders[source.source_id])]
    total_s = sum(source.duration_s for source in todo)
    with (
        stage_clock(paths, "cut", total_s, "s of video"),
        progress_board("cut", total_s, "s", on_progress) as post,
    ):
        settings = {"config": config, "root": str(paths.root), "made_from": goals, "post": post}
        patience = Patience(config.workers)

        def run(todo: list[dict[str, Any]]) -> Finished:
            worker = partial(CutSource, **settings, num_threads=threads_for(todo))
            return map_rows(todo, worker, key="key", on_row=patience)

        first = run(rows)
        # Parts that do not fit together, or of which one killed its process.
        in_parts = {row["source_id"] for row in rows if row["part"] != REST}
        second = run([_cut_row(s, REST) for s in todo if s.source_id in in_parts and not is_cut(s)])
    done, crashed = first.rows + second.rows, first.crashed + second.crashed
    failures = {row["source_id"]: row for row in done if row["reason"] is not None}
    crashed = [row for row in crashed if row["part"] == REST]
    for row in crashed:
        detail = "the decoder killed its process, or was stuck, twice"
        failures[row["source_id"]] = {"reason": "crashed", "detail": detail}
    _quarantine(paths, sources, failures)
    facts = {source.source_id: source for source in sources}
    damaged: dict[str, int] = {}
    records: list[ClipRecord] = []
    for source_id in facts:
        if source_id in failures:
            continue
        records += [as_listed_now(r, facts[source_id]) for r in read_clips(paths.cuts(source_id))]
        if count := num_damaged(paths.cuts(source_id)):
            damaged[facts[source_id].uri] = count
        # There are some if the process was killed between the table and their end.
        shutil.rmtree(paths.parts(source_id), ignore_errors=True)
    write_counts(paths.damaged, damaged)
    return records, bool(crashed or unanswered(done))


def _cut_from(config: DataEngineConfig) -> tuple[object, ...]:
    """What the tables of a source are made from, besides the source."""
    is_stitched = config.shots.stitch_similarity is not None
    stitched_by = embedding_version(config.scores) if is_stitched else None
    return config.shots, config.decode.measures(), CUT_VERSION, stitched_by


def _cut_rows(source: SourceVideo, folder: PartFolder) -> list[dict[str, Any]]:
    """A row for each missing part, or one for all that is left to do."""
    is_divided = folder.count > 1 and not folder.is_undivided()
    numbers = folder.missing() if is_divided else []
    return [_cut_row(source, number) for number in numbers or [REST]]


def _cut_row(source: SourceVideo, number: int) -> dict[str, Any]:
    return {
        "key": part_key(source, number),
        "source_id": source.source_id,
        "source": source.to_json(),
        "part": number,
    }


def as_listed_now(record: ClipRecord, source: SourceVideo) -> ClipRecord:
    """What does not come from the pixels: a source that was renamed, or credited, is not decoded again."""
    is_hdr = source.colour_transfer in _HDR_TRANSFERS
    return replace(
        record.with_scores({"hdr": Score(value=float(is_hdr), backend="container:transfer")}),
        source_uri=source.uri,
        attribution=source.attribution,
        metadata=source.metadata,
        captions=source.original_captions(),
    )


def _quarantine(
    paths: DatasetPaths, sources: Sequence[SourceVideo], failures: dict[str, dict[str, Any]]
) -> None:
    rows = [
        QuarantinedSource(
            uri=source.uri,
            reason=failures[source.source_id]["reason"],
            detail=failures[source.source_id]["detail"],
        )
        for source in sources
        if source.source_id in failures
    ]
    write_table(paths.undecodable, rows_of(rows), QUARANTINE, made_from(paths.sources))


def _score_frames(
    config: DataEngineConfig,
    paths: DatasetPaths,
    records: Sequence[ClipRecord],
    on_progress: OnProgress,
) -> tuple[dict[str, dict[str, Score]], set[str]]:
    """The scores of kept frames, by clip; and the clips whose worker crashed."""
    goal = scores_goal(config)
    versions = scorer_versions(config.scores)
    columns = ["clip_id", "scorer", "version"]
    known: dict[str, set[str]] = defaultdict(set)
    for row in read_parts(paths.scores, goal, columns):
        if versions.get(row["scorer"]) == row["version"]:
            known[row["clip_id"]].add(row["scorer"])
    missing = missing_batches(records, versions, lambda r: known[r.clip_id])
    num_done = len(records) - sum(len(batch) for _, batch in missing)
    rows = [
        _row(goal, batch[0].source_id, [r.clip_id for r in batch], scorers)
        for scorers, batch in missing
    ]

    def split(row: dict[str, Any]) -> list[dict[str, Any]]:
        return [_row(goal, row["source_id"], [c], row["scorers"]) for c in row["clip_ids"]]

    settings = {"config": config, "root": str(paths.root), "made_from": goal}
    counted = Counter("score", len(records), "clips", on_progress, done=num_done)
    with stage_clock(paths, "score", len(records) - num_done, "clips"):
        finished = map_rows(
            rows,
            partial(ScoreFrames, **settings),
            key="key",
            split=split,
            on_row=counted,
            num_gpus=config.workers.num_gpus,
        )
    compact(paths.scores, goal, SCORES_KEY)
    crashed = {clip_id for row in finished.crashed for clip_id in row["clip_ids"]}
    scores: dict[str, dict[str, Score]] = defaultdict(dict)
    for row in read_parts(paths.scores, goal, [*columns, "scores"]):
        if versions.get(row["scorer"]) == row["version"]:
            found = {name: Score(**score) for name, score in row["scores"].items()}
            scores[row["clip_id"]].update(found)
    return scores, crashed


def _row(goal: str, source_id: str, clip_ids: list[str], scorers: Sequence[str]) -> dict[str, Any]:
    return {
        "key": fingerprint(goal, source_id, clip_ids, list(scorers)),
        "source_id": source_id,
        "clip_ids": clip_ids,
        "scorers": list(scorers),
    }


def scores_goal(config: DataEngineConfig) -> str:
    """What the parts of the score table were made from: the kept frames; versions are in their rows."""
    return fingerprint("scores", 2, config.decode.measures(), CUT_VERSION)
