"""What the steps share: progress, batches of clips, and the beginning of a step."""

import fcntl
import json
from collections import defaultdict
from collections.abc import Callable, Container, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from data_engine.config import DataEngineConfig, WorkerConfig
from data_engine.errors import BusyError, JobError
from data_engine.ray_rows import OnProgress, Progress
from data_engine.schema import ClipRecord
from data_engine.tables import DatasetPaths, fingerprint, is_made_from, remove_orphans, write_text

UNANSWERED = "unanswered"
"""The column of a worker's row that says what got no answer: JSON of a key -> why."""
NO_ANSWER = "no answer yet, run again: "
CRASHED = "its worker process died twice, or was stuck, while it worked on this clip"

_CLIPS_PER_ROW = 8


Parameters = ParamSpec("Parameters")


def alone(step: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Only one process at a time may work on a data set; the lock goes with the process, even if it is killed.

    Raises:
        BusyError: another process holds it.
    """

    @wraps(step)
    def locked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        paths = next(argument for argument in args if isinstance(argument, DatasetPaths))
        paths.root.mkdir(parents=True, exist_ok=True)
        with paths.lock.open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(
                    f"another process is working on {paths.root}; wait until it is done, then run this again"
                ) from error
            remove_orphans(paths.root)
            step(*args, **kwargs)

    return locked


def is_done(table: Path, goal: str) -> bool:
    """Whether the table of a step was made from exactly this; if not, it is removed: the step begins."""
    if is_made_from(table, goal):
        return True
    table.unlink(missing_ok=True)
    return False


def unfinished(goal: str, is_unfinished: bool) -> str:
    """What a table is marked with: after a crash or without an answer, something that no later run takes for its goal."""
    return fingerprint(goal, "crashed") if is_unfinished else goal


def unanswered(rows: Iterable[dict[str, Any]]) -> dict[str, str]:
    """What got no answer in all of these rows, and why."""
    return {key: why for row in rows for key, why in json.loads(row[UNANSWERED]).items()}


class Patience:
    """Ends a job whose bucket or server no longer answers, rather than have all that is left fail.

    Raises:
        JobError: so many rows in a row had something that got no answer.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._most, self._in_a_row = config.max_unanswered, 0

    def __call__(self, row: dict[str, Any]) -> None:
        trouble = unanswered([row])
        self._in_a_row = self._in_a_row + 1 if trouble else 0
        if self._in_a_row >= self._most:
            raise JobError(
                f"{self._in_a_row} pieces of work in a row got no answer, the last: {next(iter(trouble.values()))}; look "
                "at the storage or the server, then run this again: what is done is kept"
            )


def save_config(config: DataEngineConfig, paths: DatasetPaths) -> None:
    text = config.model_dump_json(indent=1) + "\n"
    if not paths.config.exists() or paths.config.read_text() != text:
        write_text(paths.config, text)


def batches(records: Iterable[ClipRecord]) -> list[list[ClipRecord]]:
    """Clips of one source together, because their frames lie in one file."""
    by_source: dict[str, list[ClipRecord]] = defaultdict(list)
    for record in records:
        by_source[record.source_id].append(record)
    return [
        clips[i : i + _CLIPS_PER_ROW]
        for clips in by_source.values()
        for i in range(0, len(clips), _CLIPS_PER_ROW)
    ]


def missing_batches(
    records: Iterable[ClipRecord],
    names: Iterable[str],
    known: Callable[[ClipRecord], Container[str]],
) -> list[tuple[tuple[str, ...], list[ClipRecord]]]:
    """Clips of which something is missing, in batches, with the names of what it is.

    Batches are made before what is known is left out: what a model says of a clip may depend in its last digits on
    the clips beside it, so that a run which goes on must see them as the one that was killed did.
    """
    wanted = tuple(names)
    found: list[tuple[tuple[str, ...], list[ClipRecord]]] = []
    for batch in batches(records):
        missing: dict[tuple[str, ...], list[ClipRecord]] = defaultdict(list)
        for record in batch:
            has = known(record)
            missing[tuple(name for name in wanted if name not in has)].append(record)
        missing.pop((), None)
        found += missing.items()
    return found


class Counter:
    """Counts finished rows towards the progress of a step."""

    def __init__(
        self, step: str, total: int, unit: str, on_progress: OnProgress, done: int = 0
    ) -> None:
        self._step, self._total, self._unit, self._done = step, total, unit, done
        self._on_progress = on_progress

    def __call__(self, row: dict[str, Any]) -> None:
        self._done += row.get("num_clips", 1)
        self._on_progress(Progress(self._step, self._done, self._total, self._unit))


def each(*listeners: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """One listener that tells several."""

    def tell(row: dict[str, Any]) -> None:
        for listener in listeners:
            listener(row)

    return tell
