"""Rows through worker processes on Ray Data, where no row is ever lost.

Ray Data alone retries a crashed worker for ever, and when told not to, drops the whole block without a word. Here
each row is a block, and rows that did not come back are tried once more, alone: if the process dies again, the row
is reported as crashed; any other error is a defect of ours and stops the job.

Workers are made in tasks and not in actors: the processes outlive the step, so that what takes seconds to import is
imported once in a job and not once in every step. Only workers that hold a GPU are actors, since a process keeps the
GPU that it began with.
"""

import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Event, Thread
from typing import Any, Protocol
from uuid import uuid4

import ray
import ray.data
from ray.exceptions import OutOfMemoryError, RayActorError, WorkerCrashedError

from data_engine.errors import JobError

Row = dict[str, Any]

_CPUS = 0.9
"""Of a worker. Less than a whole CPU, of which something must be left for Ray's own tasks on a small machine."""


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
    make_worker: Callable[[], Worker],
    *,
    key: str,
    split: Callable[[Row], list[Row]] = _whole,
    on_row: Callable[[Row], None] = lambda _: None,
    num_gpus: float = 0.0,
) -> Finished:
    """Every row through a worker, made in each of as many processes as the cluster has CPUs, or shares of GPUs.

    `key` names the column that identifies a row; workers must hand it back unchanged. A row that killed its
    worker is tried again in the parts that `split` makes of it, so that one bad clip does not cost its neighbours.
    """
    if not rows:
        return Finished([], [])
    run = partial(_run, pool=uuid4().hex, make_worker=make_worker)
    finished: list[Row] = []
    done = _rows_on_gpus(rows, run, num_gpus) if num_gpus else _dataset(rows, run).iter_rows()
    for row in done:
        on_row(row)
        finished.append(row)
    back = {row[key] for row in finished}
    crashed: list[Row] = []
    for part in (part for row in rows if row[key] not in back for part in split(row)):
        again = _run_alone(part, run, num_gpus)
        if again is None:
            crashed.append(part)
        else:
            on_row(again)
            finished.append(again)
    return Finished(finished, crashed)


def threads_for(rows: Sequence[Row]) -> int:
    """How many threads each row may use for itself, so that all together keep the CPUs of the cluster busy."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)) // max(1, len(rows)))


def _dataset(rows: Sequence[Row], run: Callable[[Row], Row]) -> ray.data.Dataset:
    context = ray.data.DataContext.get_current()
    context.max_errored_blocks = -1
    context.enable_progress_bars = False
    # Ray would stop the job when no block moves for half an hour, as with one long film. What hangs ends itself
    # (`workers.ends_if_stuck`).
    context.execution_no_progress_timeout_s = -1
    dataset = ray.data.from_items(list(rows), override_num_blocks=len(rows))
    with warnings.catch_warnings():
        # Bounding retries is deprecated in 2.60 although nothing replaces it yet.
        warnings.simplefilter("ignore", DeprecationWarning)
        return dataset.map(run, num_cpus=_CPUS, max_retries=0)


_workers: dict[str, Worker] = {}
"""The worker of this process, by its pool: one at a time, since each may hold large models."""


def _run(row: Row, *, pool: str, make_worker: Callable[[], Worker]) -> Row:
    if pool not in _workers:
        _workers.clear()
        _workers[pool] = make_worker()
    return _workers[pool](row)


def check_gpus(num_gpus: float) -> None:
    """Find out before hours of decoding whether a process can ever have that share of a GPU.

    Raises:
        JobError: no node of the cluster has both a GPU and a CPU.
    """
    if num_gpus and not _num_places(num_gpus):
        has_gpu = ray.cluster_resources().get("GPU", 0) >= num_gpus
        found = "has no CPU beside its GPUs" if has_gpu else "has no GPU"
        raise JobError(
            f"workers.num_gpus is {num_gpus:g}, but the Ray cluster {found}; set it to 0, or name a cluster that has "
            "one with --ray-address"
        )


def _num_places(num_gpus: float) -> int:
    """How many processes with that share of a GPU there is room for: each lies on one node, and on one of its GPUs."""

    # Ray counts in ten-thousandths, and so does this: 1 // 0.1 is 9.
    def fitting(available: float, share: float) -> int:
        return round(available * 10_000) // round(share * 10_000)

    nodes = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return sum(
        min(fitting(n.get("CPU", 0), _CPUS), int(n.get("GPU", 0)) * fitting(1, num_gpus))
        for n in nodes
    )


@ray.remote(num_cpus=_CPUS)
class _GpuProcess:
    def is_there(self) -> bool:
        return True

    def run(self, row: Row, run: Callable[[Row], Row]) -> Row:
        return run(row)


def _rows_on_gpus(rows: Sequence[Row], run: Callable[[Row], Row], num_gpus: float) -> Iterator[Row]:
    """The rows that came back, each when it is done; a process that dies is replaced, its row is left out."""
    check_gpus(num_gpus)
    waiting = deque(rows)
    # Others may hold a part of the cluster: only a process that answered is given a row.
    answers: dict[Any, Any] = {}

    def start() -> None:
        process: Any = _GpuProcess.options(num_gpus=num_gpus).remote()
        answers[process.is_there.remote()] = process

    for _ in range(min(len(rows), _num_places(num_gpus))):
        start()
    rows_of: dict[Any, Any] = {}
    idle: list[Any] = []
    try:
        while waiting or rows_of:
            done = ray.wait([*answers, *rows_of], num_returns=1)[0][0]
            is_row = done in rows_of
            process = (rows_of if is_row else answers).pop(done)
            try:
                said = ray.get(done)
            except (RayActorError, OutOfMemoryError):
                if waiting:
                    start()
                continue
            if waiting:
                rows_of[process.run.remote(waiting.popleft(), run)] = process
            else:
                idle.append(process)
            if is_row:
                yield said
    finally:
        # Ray ends an actor when the last handle to it is collected, which may be never: an exception that was caught
        # above keeps this frame, and what runs next would wait for the GPU for ever.
        for process in (*answers.values(), *rows_of.values(), *idle):
            ray.kill(process)


def _run_alone(row: Row, run: Callable[[Row], Row], num_gpus: float) -> Row | None:
    """One row while no other runs; None if its process dies."""

    @ray.remote(num_cpus=_CPUS, num_gpus=num_gpus, max_retries=0)
    def alone() -> Row:
        return run(row)

    try:
        return ray.get(alone.remote())
    except (WorkerCrashedError, OutOfMemoryError):
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
