"""The jobs of a file of prompts on several processes, as Ray actors: each holds the models and makes one batch after the
other. What a video looks like does not depend on who makes it."""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from training.errors import GenerateError
from training.generate import OpenRun
from training.generate_many import Failure, Job, Made, OnStep, batches_of, make_batch

CPUS_PER_WORKER = 0.9
"""Less than a whole one, of which something must be left for Ray's own tasks on a small machine."""
MAX_ATTEMPTS = 3
"""Of a batch whose process died."""
_POLL_S = 0.5


class _Maker:
    """Two threads: one makes videos, the other tells how far it is."""

    def __init__(self, run_dir: str) -> None:
        self._opened = OpenRun(Path(run_dir))
        self._progress = (0, 0)

    def make(self, batch: Sequence[Job]) -> list[Made]:
        # A setting of the thread that calls it, so not in __init__.
        torch.set_num_threads(self._opened.config.threads_per_worker)

        def show(done: int, total: int) -> None:
            self._progress = (done, total)

        return make_batch(self._opened, batch, show)

    def progress(self) -> tuple[int, int]:
        return self._progress


class _Busy(NamedTuple):
    slot: int
    maker: Any
    batch: Sequence[Job]
    attempt: int


def make_on_workers(
    run_dir: Path,
    jobs: Sequence[Job],
    num_workers: int,
    *,
    num_gpus: float = 0.0,
    batch_size: int = 1,
    on_step: OnStep = lambda _n, _d, _t: None,
) -> Iterator[Made]:
    """Make the jobs, in batches of one kind, each as soon as a process is free. Ray must be initialised; its nodes share the storage of the run.

    `num_gpus`: the share of a GPU that each process holds; with 0 they run on the CPU.

    Raises:
        GenerateError: the cluster has no room for so many workers.
    """
    _check_room(num_workers, num_gpus)
    options: dict[str, Any] = {
        "num_cpus": CPUS_PER_WORKER,
        "num_gpus": num_gpus,
        "max_concurrency": 2,
    }
    actor: Any = ray.remote(**options)(_Maker)
    waiting: deque[tuple[Sequence[Job], int]] = deque(
        (batch, 1) for batch in batches_of(jobs, batch_size)
    )
    path = str(run_dir.resolve())
    idle = {slot: actor.remote(path) for slot in range(1, min(num_workers, len(waiting)) + 1)}
    busy: dict[Any, _Busy] = {}
    try:
        while waiting or busy:
            while waiting and idle:
                (slot, maker), (batch, attempt) = idle.popitem(), waiting.popleft()
                busy[maker.make.remote(batch)] = _Busy(slot, maker, batch, attempt)
            done, _ = ray.wait(list(busy), timeout=_POLL_S)
            for reference in done:
                slot, maker, batch, attempt = busy.pop(reference)
                try:
                    yield from ray.get(reference)
                    idle[slot] = maker
                except RayTaskError:
                    raise
                except RayError as error:
                    # The process was killed, or its machine is gone.
                    idle[slot] = actor.remote(path)
                    if attempt < MAX_ATTEMPTS:
                        waiting.append((batch, attempt + 1))
                    else:
                        died = f"its process died {attempt} times ({_line_of(error)})"
                        yield from [Failure(job.out, died) for job in batch]
            _tell(list(busy.values()), on_step)
    finally:
        for maker in [*idle.values(), *(one.maker for one in busy.values())]:
            ray.kill(maker)


def _tell(busy: Sequence[_Busy], on_step: OnStep) -> None:
    asked = {one.maker.progress.remote(): one.slot for one in busy}
    # One that is still loading its models, or has just died, has nothing to tell.
    ready = ray.wait(list(asked), num_returns=len(asked), timeout=_POLL_S)[0] if asked else ()
    for reference in ready:
        try:
            done, total = ray.get(reference)
        except RayError:
            continue
        if total:
            on_step(f"worker {asked[reference]}", done, total)


def _check_room(num_workers: int, num_gpus: float) -> None:
    found = ray.cluster_resources()
    room = int(found.get("CPU", 0) / CPUS_PER_WORKER)
    if num_gpus:
        room = min(room, int(found.get("GPU", 0) / num_gpus))
    if room < num_workers:
        raise GenerateError(
            f"--num-workers is {num_workers}, but Ray has room for {room} (CPU {found.get('CPU', 0):g}, "
            f"GPU {found.get('GPU', 0):g}; each takes {CPUS_PER_WORKER:g} CPU and {num_gpus:g} GPU)"
        )


def _line_of(error: RayError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
