"""Which sources there are, and which of them can be read."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Self

from data_engine.append_only import PROBED, PROBED_KEY, compact, read_parts
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
    remove_orphans,
    rows_of,
    write_counts,
    write_table,
)
from data_engine.throughput import stage_clock
from data_engine.workers import ProbeSource

_PROBE_VERSION = 1
"""Another one probes everything again."""
_KEPT_EVERY_S = 5.0


@alone
def probe_sources(
    config: DataEngineConfig, source: str, paths: DatasetPaths, on_progress: OnProgress
) -> None:
    """Write the table of readable sources, and the quarantine of the others with their reasons.

    A file of which the listing says the same as before is not read again: its hash takes all of its bytes.
    """
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
    remove_orphans(paths.probed)
    remembered = fingerprint("probed", _PROBE_VERSION, config.probe)
    files = {file.uri: file.to_json() for file in listing.files}
    keys = {uri: fingerprint(file) for uri, file in files.items()}
    known = {row["file"]: row for row in read_parts(paths.probed, remembered)}
    probed = [known[key] for key in keys.values() if key in known]
    rows = [{"uri": uri, "file": file} for uri, file in files.items() if keys[uri] not in known]
    counted = Counter("probe", len(keys), "sources", on_progress, done=len(probed))
    with (
        stage_clock(paths, "probe", len(rows), "sources"),
        _Memory(paths.probed, remembered, keys) as memory,
    ):
        listeners = each(counted, memory, Patience(config.workers))
        finished = map_rows(rows, partial(ProbeSource, config), key="uri", on_row=listeners)
    compact(paths.probed, remembered, PROBED_KEY)
    probed += finished.rows
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
            for row in probed
            if row["source"] is None
        ),
    ]
    quarantine.sort(key=lambda row: (row.uri, row.reason))
    is_unfinished = bool(finished.crashed or unanswered(finished.rows))
    write_table(paths.quarantine, rows_of(quarantine), QUARANTINE, goal)
    readable = (SourceVideo.from_json(row["source"]) for row in probed if row["source"])
    sources = rows_of(merge_copies(readable))
    write_table(paths.sources, sources, SOURCES, unfinished(goal, is_unfinished))


class _Memory:
    """Keeps what was found out of each file while others are still read, so that a job that is killed loses seconds.

    What got no answer is not kept: it may get one the next time.
    """

    def __init__(self, folder: Path, made_from: str, keys: Mapping[str, str]) -> None:
        self._folder, self._made_from, self._keys = folder, made_from, keys
        self._waiting: list[dict[str, Any]] = []
        self._kept_s = monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._keep()

    def __call__(self, row: dict[str, Any]) -> None:
        if not unanswered([row]):
            found = {name: row[name] for name in ("uri", "source", "reason", "detail")}
            self._waiting.append(found | {"file": self._keys[row["uri"]]})
        if monotonic() - self._kept_s > _KEPT_EVERY_S:
            self._keep()

    def _keep(self) -> None:
        if self._waiting:
            name = fingerprint([row["file"] for row in self._waiting])
            write_table(self._folder / f"{name}.parquet", self._waiting, PROBED, self._made_from)
        self._waiting = []
        self._kept_s = monotonic()
