"""Decisions over tables alone: which clips the filters keep, and which of those are copies. No video is touched."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from data_engine.append_only import read_batches
from data_engine.config import DataEngineConfig
from data_engine.duplicates import Original, find_copies, find_duplicates
from data_engine.errors import TableError
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
    read_config,
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
    earlier = earlier_data_sets(config, paths)
    goal = fingerprint(
        "deduplicated",
        made_from(paths.filtered_clips),
        config.duplicates.model_dump(mode="json", exclude={"also"}),
        versions.get("embedding"),
        *((name, made_from(other.deduplicated_clips)) for name, other in earlier.items()),
    )
    if is_done(paths.deduplicated_clips, goal):
        return
    records = [r for r in read_clips(paths.filtered_clips) if r.status is ClipStatus.KEPT]
    limit = config.duplicates.max_similarity
    duplicates: dict[str, tuple[str, float]] = {}
    if limit is not None:
        embeddings = read_embeddings(config, paths)
        within_source = config.duplicates.within_source
        originals = [o for name, other in earlier.items() for o in _originals(config, name, other)]
        duplicates = find_copies(records, embeddings, originals, limit, within_source=within_source)
        rest = [record for record in records if record.clip_id not in duplicates]
        duplicates |= find_duplicates(rest, embeddings, limit, within_source=within_source)
    decided = (
        replace(r, rejected_by=Rejection.DUPLICATE, duplicate_of=duplicates[r.clip_id][0])
        if r.clip_id in duplicates
        else r
        for r in records
    )
    write_clips(paths.deduplicated_clips, decided, goal)


def earlier_data_sets(config: DataEngineConfig, paths: DatasetPaths) -> dict[str, DatasetPaths]:
    """The data sets of `duplicates.also` that come before this one, by the name that is given there.

    Raises:
        TableError: one of them was not curated as far as its copies.
    """
    earlier: dict[str, DatasetPaths] = {}
    for name in config.duplicates.also:
        other = DatasetPaths(paths.root.parent / name)
        if other.root == paths.root:
            break
        if not other.deduplicated_clips.exists():
            raise TableError(
                f"duplicates.also names {name!r}, but {other.deduplicated_clips} does not exist; curate that data set "
                "first, or leave it out"
            )
        earlier[name] = other
    return earlier


def _originals(config: DataEngineConfig, name: str, other: DatasetPaths) -> list[Original]:
    """What another data set keeps, with the embeddings that it was given there."""
    theirs = read_config(other, DataEngineConfig)
    mine, found = (scorer_versions(c.scores).get("embedding") for c in (config, theirs))
    if found != mine:
        raise TableError(
            f"{name} of duplicates.also has embeddings by {found}, this data set by {mine}; curate both with the same "
            "scores.embedding, or leave it out"
        )
    embeddings = read_embeddings(theirs, other)
    return [
        Original(name, record, embeddings[record.clip_id])
        for record in read_clips(other.deduplicated_clips)
        if record.status is ClipStatus.KEPT and record.clip_id in embeddings
    ]


def read_embeddings(
    config: DataEngineConfig, paths: DatasetPaths
) -> dict[str, NDArray[np.float32]]:
    """The embedding of each clip that has one: D numbers of unit length."""
    version = scorer_versions(config.scores).get("embedding")
    columns = ["clip_id", "scorer", "version", "embedding"]
    found: dict[str, NDArray[np.float32]] = {}
    for batch in read_batches(paths.scores, scores_goal(config), columns):
        names, scorers, versions = (batch.column(name).to_pylist() for name in columns[:3])
        vectors = batch.column("embedding")
        # As arrays: millions of clips are too much for lists of numbers.
        numbers, ends = vectors.values.to_numpy(), vectors.offsets.to_numpy()
        for place, (clip_id, scorer) in enumerate(zip(names, scorers, strict=True)):
            row_D = numbers[ends[place] : ends[place + 1]]
            if scorer == "embedding" and versions[place] == version and row_D.size:
                found[clip_id] = row_D
    return found
