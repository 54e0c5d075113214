"""Which sources there are, and which of them can be read."""

from pathlib import Path

from data_engine.config import DataEngineConfig
from data_engine.ray_rows import OnProgress, map_rows
from data_engine.schema import QuarantinedSource, SourceVideo
from data_engine.sources import list_sources
from data_engine.steps.work import Counter, alone, is_done, save_config, unfinished
from data_engine.tables import (
    QUARANTINE,
    SOURCES,
    DatasetPaths,
    fingerprint,
    rows_of,
    write_table,
)
from data_engine.workers import ProbeSource


@alone
def probe_sources(
    config: DataEngineConfig, source: str, paths: DatasetPaths, on_progress: OnProgress
) -> None:
    """Write the table of readable sources, and the quarantine of the others with their reasons."""
    save_config(config, paths)
    files = list_sources(source)
    stamps = [(f.uri, f.attribution, *_stamp(f.path)) for f in files]
    goal = fingerprint("sources", config.probe, stamps)
    if is_done(paths.sources, goal):
        return
    rows = [{"uri": file.uri, "attribution": file.attribution} for file in files]
    counted = Counter("probe", len(rows), "sources", on_progress)
    finished = map_rows(rows, ProbeSource, {"config": config}, key="uri", on_row=counted)
    readable: dict[str, SourceVideo] = {}
    quarantined = [
        QuarantinedSource(
            uri=row["uri"], reason="crashed", detail="the worker process died twice while probing"
        )
        for row in finished.crashed
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
    made_from = unfinished(goal, bool(finished.crashed))
    write_table(paths.sources, rows_of(readable.values()), SOURCES, made_from)


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
