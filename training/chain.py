"""Which stages of a run are trained, in which order, and what is told meanwhile. How is up to `launch.py` or `local.py`."""

import json
import os
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

from training.branch import Origin, take_over
from training.config import TrainConfig
from training.errors import TrainError
from training.loop import prepare_run
from training.run_directory import RunDirectory, TrainResult
from training.run_lock import locked
from training.streaming.index import SampleIndex
from training.streaming.loader import read_ahead_mb
from training.streaming.shards import dataset_names

ProgressCallback = Callable[[str, int, int, float], None]
"""Called with (stage, steps done, steps in all, loss) from a thread of the driver. The fit of the autoencoder
comes first, under the name `autoencoder`."""

PlanCallback = Callable[[str, str], None]
"""Called before training with each stage and what it will train on, as a table."""

TrainStages = Callable[[TrainConfig, Sequence[str], Sequence[str], RunDirectory], None]
"""Trains stages of a prepared run, in order: called with the config, their names, the data sets and the run."""

POLL_INTERVAL_S = 0.5


class ChainOptions(TypedDict, total=False):
    """What may be asked of a run besides its config."""

    stages: Sequence[str] | None
    """Only these; what they start from must be finished. All if left out."""
    resume: bool
    """Whether an unfinished stage with a checkpoint may go on."""
    from_run: Path | None
    """Stages that are finished there and were made in the same way are taken over."""
    on_plan: PlanCallback
    on_progress: ProgressCallback | None


def train_chain(
    config: TrainConfig,
    datasets: Sequence[str | Path],
    run_dir: Path,
    train: TrainStages,
    **options: Unpack[ChainOptions],
) -> TrainResult:
    """Train every stage that is not finished yet, in order. Finished stages are not trained again.

    Raises:
        DataError: the shards are broken, or hold no usable clip.
        TrainError: the directory holds another run or one to be resumed, or another trainer writes the run, or what
            `train` raises.
    """
    stages, from_run = options.get("stages"), options.get("from_run")
    on_progress = options.get("on_progress")
    on_plan = options.get("on_plan", lambda _name, _table: None)
    names = dataset_names(datasets)
    run = RunDirectory(run_dir.resolve())
    with locked(run.driver_lock):
        if from_run is not None:
            for name, origin in _taken_over(config, stages, names, run, from_run).items():
                on_plan(name, f"taken over from {origin.run}, {origin.checkpoint}")
        # What another run trained may not even be possible on these shards.
        wanted = [n for n in _wanted(config, stages, run) if not run.stage(n).origin.exists()]
        on_fit_step = partial(on_progress, "autoencoder") if on_progress else None
        for name, plan in prepare_run(config, names, run.path, wanted, on_fit_step).items():
            ahead_mb = read_ahead_mb(plan, config.data, config.num_workers)
            on_plan(name, f"{plan.table()}\nread ahead: at most {ahead_mb:.0f} MiB in each worker")
        if not options.get("resume", False):
            _refuse_unfinished(wanted, run)
        unfinished = [name for name in wanted if run.stage(name).result() is None]
        if unfinished:
            num_steps = {name: config.stages[name].num_steps for name in unfinished}
            with _reported(run, num_steps, on_progress):
                train(config, unfinished, names, run)
    results = [run.stage(name).result() for name in config.stages]
    return TrainResult(
        run_dir=run.path, stages=tuple(result for result in results if result is not None)
    )


def _taken_over(
    config: TrainConfig,
    stages: Sequence[str] | None,
    datasets: Sequence[str],
    run: RunDirectory,
    from_run: Path,
) -> dict[str, Origin]:
    # Before anything is put into the directory: it may be that of another run.
    run.claim(config, SampleIndex.open(datasets, run.index).fingerprint)
    wanted = [name for name in config.stages if stages is None or name in stages]
    return take_over(config, wanted, run, RunDirectory(from_run.resolve()))


def stages_for(config: TrainConfig, stage: str) -> list[str]:
    """A stage after all that it starts from.

    Raises:
        TrainError: there is no such stage.
    """
    if stage not in config.stages:
        raise TrainError(f"there is no stage {stage}; the run has {', '.join(config.stages)}")
    return config.needed_for(stage)


def _wanted(config: TrainConfig, stages: Sequence[str] | None, run: RunDirectory) -> list[str]:
    """The stages to train, in order, all of whose starts are finished or among them."""
    if stages is None:
        return list(config.stages)
    if unknown := [name for name in stages if name not in config.stages]:
        raise TrainError(
            f"there is no stage {', '.join(unknown)}; the run has {', '.join(config.stages)}"
        )
    for name in stages:
        for start in config.starts_of(name):
            if start not in stages and run.stage(start).result() is None:
                raise TrainError(
                    f"stage {name} starts from stage {start}, which is not finished in {run.path}; "
                    f"train {start} first"
                )
    return [name for name in config.stages if name in stages]


def _refuse_unfinished(names: Sequence[str], run: RunDirectory) -> None:
    for name in names:
        stage = run.stage(name)
        if stage.has_checkpoint and stage.result() is None:
            raise TrainError(
                f"stage {name} in {run.path} was interrupted; pass --resume to go on from its latest "
                "checkpoint, or choose another --run"
            )


@contextmanager
def _reported(
    run: RunDirectory, num_steps: Mapping[str, int], on_progress: ProgressCallback | None
) -> Generator[None]:
    """While the block runs, pass each new line of the stages' metrics to the callback, in order."""
    if on_progress is None:
        yield
        return
    tails = {name: MetricsTail(run.stage(name).metrics) for name in num_steps}
    done = threading.Event()

    def report_new() -> None:
        for name, tail in tails.items():
            # Asked before the lines are read: a finished stage's last line is then among them.
            finished = run.stage(name).result() is not None
            for metrics in tail.new_lines():
                on_progress(name, metrics["step"], num_steps[name], metrics["loss"])
            if not finished:
                return

    def poll() -> None:
        while not done.wait(POLL_INTERVAL_S):
            report_new()

    thread = threading.Thread(target=poll, name="training-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        report_new()


class MetricsTail:
    """New complete lines of a growing file. A restarted stage replaces the file: it is read anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0

    def new_lines(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self._inode:
                self._inode, self._offset = inode, 0
            file.seek(self._offset)
            complete, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(complete) + len(newline)
        return [json.loads(line) for line in complete.splitlines()]
