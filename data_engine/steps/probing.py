"""Which sources there are, and which of them can be read."""

from dataclasses import asdict
from functools import partial

from data_engine.config import DataEngineConfig
from data_engine.probe import merge_copies
from data_engine.ray_rows import OnProgress, map_rows
from data_engine.schema import QuarantinedSource, SourceVideo
from data_engine.sources.listing import list_sources
from data_engine.steps.work import (
    Counter,
    Patience,
    alone,
    each,
    is_done,
    save_config,
    unanswered,
    unfinished,
)
from data_engine.tables import (
    QUARANTINE,
    SOURCES,
    DatasetPaths,
    fingerprint,
    rows_of,
    write_counts,
    write_table,
)
from data_engine.throughput import stage_clock
from data_engine.workers import ProbeSource


@alone
def probe_sources(
    config: DataEngineConfig, source: str, paths: DatasetPaths, on_progress: OnProgress
) -> None:
    """Write the table of readable sources, and the quarantine of the others with their reasons."""
    save_config(config, paths)
    listing = list_sources(source)
    write_counts(paths.skipped, listing.skipped)
    goal = fingerprint(
        "sources",
        config.probe,
        [asdict(file) for file in listing.files],
        [asdict(row) for row in listing.unusable],
    )
    if is_done(paths.sources, goal):
        return
    rows = [{"uri": file.uri, "file": file.to_json()} for file in listing.files]
    counted = Counter("probe", len(rows), "sources", on_progress)
    with stage_clock(paths, "probe", len(rows), "sources"):
        listeners = each(counted, Patience(config.workers))
        finished = map_rows(rows, partial(ProbeSource, config), key="uri", on_row=listeners)
    quarantine = [
        *listing.unusable,
        *(
            QuarantinedSource(
                uri=row["uri"],
                reason="crashed",
                detail="the worker process died, or was stuck, twice",
            )
            for row in finished.crashed
        ),
        *(
            QuarantinedSource(uri=row["uri"], reason=row["reason"], detail=row["detail"])
            for row in finished.rows
            if row["source"] is None
        ),
    ]
    quarantine.sort(key=lambda row: (row.uri, row.reason))
    probed = (SourceVideo.from_json(row["source"]) for row in finished.rows if row["source"])
    is_unfinished = bool(finished.crashed or unanswered(finished.rows))
    write_table(paths.quarantine, rows_of(quarantine), QUARANTINE, goal)
    sources = rows_of(merge_copies(probed))
    write_table(paths.sources, sources, SOURCES, unfinished(goal, is_unfinished))
