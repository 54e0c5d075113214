"""Decisions over tables alone: which clips the filters keep, and which of those are copies. No video is touched."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from data_engine.append_only import read_parts
from data_engine.config import DataEngineConfig
from data_engine.duplicates import find_duplicates
from data_engine.filters import BEFORE_CAPTIONS, judge, resolve_percentiles
from data_engine.schema import ClipStatus, Rejection
from data_engine.scoring import scorer_versions
from data_engine.steps.scoring import scores_goal
from data_engine.steps.work import alone, is_done, save_config
from data_engine.tables import (
    DatasetPaths,
    fingerprint,
    made_from,
    read_clips,
    write_clips,
)


@alone
def filter_clips(config: DataEngineConfig, paths: DatasetPaths) -> None:
    """Write the table of all clips with the decision of the filters; percentiles are over these clips."""
    save_config(config, paths)
    goal = fingerprint("filtered", made_from(paths.scored_clips), config.filters)
    if is_done(paths.filtered_clips, goal):
        return
    records = read_clips(paths.scored_clips)
    filters = resolve_percentiles(config.filters, records, BEFORE_CAPTIONS)
    decided = (judge(record, filters, BEFORE_CAPTIONS) for record in records)
    write_clips(paths.filtered_clips, decided, goal)


@alone
def deduplicate_clips(config: DataEngineConfig, paths: DatasetPaths) -> None:
    """Write the table of the clips that the filters kept; all but the best of near-duplicates are rejected."""
    save_config(config, paths)
    versions = scorer_versions(config.scores)
    goal = fingerprint(
        "deduplicated",
        made_from(paths.filtered_clips),
        config.duplicates,
        versions.get("embedding"),
    )
    if is_done(paths.deduplicated_clips, goal):
        return
    records = [r for r in read_clips(paths.filtered_clips) if r.status is ClipStatus.KEPT]
    limit = config.duplicates.max_similarity
    duplicates: dict[str, tuple[str, float]] = {}
    if limit is not None:
        embeddings = read_embeddings(config, paths)
        within_source = config.duplicates.within_source
        duplicates = find_duplicates(records, embeddings, limit, within_source=within_source)
    decided = (
        replace(r, rejected_by=Rejection.DUPLICATE, duplicate_of=duplicates[r.clip_id][0])
        if r.clip_id in duplicates
        else r
        for r in records
    )
    write_clips(paths.deduplicated_clips, decided, goal)


def read_embeddings(
    config: DataEngineConfig, paths: DatasetPaths
) -> dict[str, NDArray[np.float32]]:
    """The embedding of each clip that has one: D numbers of unit length."""
    version = scorer_versions(config.scores).get("embedding")
    columns = ["clip_id", "scorer", "version", "embedding"]
    return {
        row["clip_id"]: np.asarray(row["embedding"], dtype=np.float32)
        for row in read_parts(paths.scores, scores_goal(config), columns)
        if row["scorer"] == "embedding" and row["version"] == version and row["embedding"]
    }
