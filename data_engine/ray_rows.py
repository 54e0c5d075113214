"""Rows through a pool of workers on Ray Data, where no row is ever lost.

Ray Data alone retries a crashed worker for ever, and when told not to, drops the whole block without a word. Here
each row is a block, a worker that dies is restarted, and rows that did not come back are tried once more, alone:
if the process dies again, the row is reported as crashed; any other error is a defect of ours and stops the job.
"""

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, Protocol

import ray
import ray.data
from ray.exceptions import OutOfMemoryError, RayActorError, WorkerCrashedError

Row = dict[str, Any]


class Worker(Protocol):
    """Loads what it needs when made; turns one row into one row. Must bear being run twice on a row."""

    def __call__(self, row: Row) -> Row: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one step has come, in its own unit."""

    step: str
    done: float
    total: float
    unit: str


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Finished:
    """What came back, and the rows (or parts of rows) whose worker process died twice."""

    rows: list[Row]
    crashed: list[Row]


def _whole(row: Row) -> list[Row]:
    return [row]


def map_rows(
    rows: Sequence[Row],
    worker: type[Worker],
    settings: dict[str, Any],
    *,
    key: str,
    split: Callable[[Row], list[Row]] = _whole,
    on_row: Callable[[Row], None] = lambda _: None,
) -> Finished:
    """Every row through `worker(**settings)`, in as many processes as the cluster has CPUs.

    `key` names the column that identifies a row; workers must hand it back unchanged. A row that killed its
    worker is tried again in the parts that `split` makes of it, so that one bad clip does not cost its neighbours.
    """
    if not rows:
        return Finished([], [])
    finished: list[Row] = []
    with _registry() as registry:
        for row in _dataset(rows, worker, settings, registry).iter_rows():
            on_row(row)
            finished.append(row)
    back = {row[key] for row in finished}
    crashed: list[Row] = []
    for part in (part for row in rows if row[key] not in back for part in split(row)):
        again = _run_alone(part, worker, settings)
        if again is None:
            crashed.append(part)
        else:
            on_row(again)
            finished.append(again)
    return Finished(finished, crashed)


def _dataset(
    rows: Sequence[Row], worker: type[Worker], settings: dict[str, Any], registry: Any
) -> ray.data.Dataset:
    context = ray.data.DataContext.get_current()
    context.max_errored_blocks = -1
    context.enable_progress_bars = False
    # Ray would stop the job when no block moves for half an hour, as with one long film. What hangs ends itself
    # (`workers.ends_if_stuck`).
    context.execution_no_progress_timeout_s = -1
    num_workers = max(1, min(len(rows), int(ray.cluster_resources().get("CPU", 1))))
    dataset = ray.data.from_items(list(rows), override_num_blocks=len(rows))
    with warnings.catch_warnings():
        # Bounding restarts and retries is deprecated in 2.60 although nothing replaces it yet.
        warnings.simplefilter("ignore", DeprecationWarning)
        return dataset.map(
            _registered(worker, registry),  # pyright: ignore[reportArgumentType]  # Ray takes a callable class, its hints do not
            fn_constructor_kwargs=settings,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_workers),
            # Less than a whole CPU: a pool of whole-CPU actors can wait for ever on a small machine.
            num_cpus=0.9,
            max_restarts=2,
            max_task_retries=0,
        )


def _registered(worker: type[Worker], registry: Any) -> type[Worker]:
    """The same worker, but that its process says who it is before it loads anything."""

    class Registered(worker):
        def __init__(self, **settings: Any) -> None:
            actor = ray.get_runtime_context().current_actor
            ray.get(registry.add.remote(actor))
            super().__init__(**settings)

    # What Ray shows people.
    Registered.__name__ = worker.__name__
    return Registered


@ray.remote(num_cpus=0)
class _Registry:
    """The worker processes of one pool."""

    def __init__(self) -> None:
        self._actors: list[Any] = []

    def add(self, actor: Any) -> None:
        self._actors.append(actor)

    def actors(self) -> list[Any]:
        return self._actors


@contextmanager
def _registry() -> Generator[Any]:
    """Ends every worker that registered. Ray forgets one that was being restarted when its pool ended: it would hold
    its CPU for the rest of the session, and on a small machine the next pool would wait for it for ever.
    """
    registry: Any = _Registry.remote()
    try:
        yield registry
    finally:
        for actor in ray.get(registry.actors.remote()):
            ray.kill(actor)
        ray.kill(registry)


def _run_alone(row: Row, worker: type[Worker], settings: dict[str, Any]) -> Row | None:
    """One row in a process of its own; None if that process dies."""

    @ray.remote(num_cpus=0.9, max_retries=0)
    def run() -> Row:
        return worker(**settings)(row)

    try:
        return ray.get(run.remote())
    except (WorkerCrashedError, RayActorError, OutOfMemoryError):
        return None


@ray.remote(num_cpus=0)
class _Board:
    """Adds up what workers report while they work on a long row."""

    def __init__(self) -> None:
        self._done: dict[str, float] = {}

    def post(self, key: str, done: float) -> None:
        self._done[key] = done

    def total(self) -> float:
        return sum(self._done.values())


@contextmanager
def progress_board(
    step: str, total: float, unit: str, on_progress: OnProgress
) -> Generator[Callable[[str, float], None]]:
    """A function for workers to say how much of their row is done; the sum is reported every second."""
    board: Any = _Board.remote()
    stop = Event()

    def watch() -> None:
        while not stop.wait(1.0):
            on_progress(Progress(step, ray.get(board.total.remote()), total, unit))

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda key, done: board.post.remote(key, done)
    finally:
        stop.set()
        watcher.join()
        if total:
            on_progress(Progress(step, ray.get(board.total.remote()), total, unit))
        ray.kill(board)
