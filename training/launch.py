"""A whole run on Ray Train: one group of workers, one stage after the other.

Ray Train starts, watches and restarts the workers; where a stage goes on is decided by our own
`latest.json` (`checkpoint.py`), which a restart and a new run of the driver read alike. The loop
calls `ray.train.report` nowhere: it is a barrier over all workers, and nothing here needs one.
"""

import json
import logging
import os
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from training.branch import Origin, take_over
from training.config import TrainConfig
from training.distribute import Worker, wait_for_all
from training.errors import TrainError, TrainingError
from training.loop import prepare_run, train_stage
from training.previews import Previews
from training.run_directory import RunDirectory, TrainResult
from training.run_lock import locked
from training.streaming.index import SampleIndex
from training.streaming.loader import read_ahead_mb
from training.streaming.shards import dataset_names

logger = logging.getLogger(__name__)

ProgressCallback = Callable[[str, int, int, float], None]
"""Called with (stage, steps done, steps in all, loss) from a thread of the driver. The fit of the autoencoder
comes first, under the name `autoencoder`."""

PlanCallback = Callable[[str, str], None]
"""Called before training with each stage and what it will train on, as a table."""

MAX_WORKER_FAILURES = 1
"""A stage goes on from its latest checkpoint this many times after a worker died."""
POLL_INTERVAL_S = 0.5
CPUS_PER_WORKER = 0.5
"""What a worker asks Ray for, so that two workers fit beside others on two cores."""


def fit(  # noqa: PLR0913  (what to train, where, and three ways to follow it)
    config: TrainConfig,
    datasets: Sequence[str | Path],
    run_dir: Path,
    *,
    stages: Sequence[str] | None = None,
    resume: bool = False,
    from_run: Path | None = None,
    on_plan: PlanCallback = lambda _name, _table: None,
    on_progress: ProgressCallback | None = None,
) -> TrainResult:
    """Train every stage that is not finished yet, in order. Ray must be initialised by the caller.

    With `stages`, only these; what they start from must be finished. Finished stages are not trained again. An unfinished stage with a checkpoint goes on only if
    `resume` is set. Stages that are finished in `from_run` and were made in the same way are taken over from there.

    Raises:
        DataError: the shards are broken, or hold no usable clip.
        TrainError: Ray is not running, the directory holds another run or one to be resumed, or a
            worker failed, or another trainer writes the run.
    """
    if not ray.is_initialized():
        raise TrainError("Ray is not running in this process; call ray.init() before fit()")
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
        if not resume:
            _refuse_unfinished(wanted, run)
        unfinished = [name for name in wanted if run.stage(name).result() is None]
        if unfinished:
            num_steps = {name: config.stages[name].num_steps for name in unfinished}
            with _reported(run, num_steps, on_progress):
                _fit_stages(config, unfinished, names, run)
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


def _fit_stages(
    config: TrainConfig, names: Sequence[str], datasets: Sequence[str], run: RunDirectory
) -> None:
    """One group of workers for all of them: to start a group takes as long as a small stage."""
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={
            "config": config.model_dump_json(),
            "stages": list(names),
            "datasets": list(datasets),
            "run_dir": str(run.path),
        },
        torch_config=TorchConfig(backend="nccl" if config.device == "cuda" else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.num_workers
            if config.min_workers is None
            else (config.min_workers, config.num_workers),
            elastic_resize_monitor_interval_s=config.resize_check_s,
            use_gpu=config.device == "cuda",
            resources_per_worker=_worker_resources(config),
        ),
        run_config=RunConfig(
            name="-".join(names),
            storage_path=str(run.path / "ray"),
            failure_config=FailureConfig(max_failures=MAX_WORKER_FAILURES),
        ),
    )
    try:
        with _ray_train_settings():
            trainer.fit()
    except TrainingFailedError as error:
        unfinished = (name for name in names if run.stage(name).result() is None)
        failed = next(unfinished, names[-1])
        raise TrainError(f"stage {failed} failed: {_cause(error)}") from error
    for name in names:
        if run.stage(name).result() is None:
            raise TrainError(f"stage {name} ended without a result; see {run.path / 'ray'}")


def _worker_resources(config: TrainConfig) -> dict[str, float]:
    if config.device == "cuda":
        return {"CPU": config.threads_per_worker, "GPU": 1}
    return {"CPU": CPUS_PER_WORKER}


def _train_worker(settings: dict[str, Any]) -> None:
    """What runs on each Ray Train worker; takes plain values, since Ray serialises them."""
    config = TrainConfig.model_validate_json(settings["config"])
    torch.set_num_threads(config.threads_per_worker)
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    assert isinstance(device, torch.device), "one device per worker is asked for"
    run = RunDirectory(Path(settings["run_dir"]))
    worker = Worker(context.get_world_rank(), context.get_world_size(), device)
    for name in settings["stages"]:
        # After the restart of a worker group, the stages before the interrupted one are finished.
        if run.stage(name).result() is None:
            _train_with_previews(config, name, settings["datasets"], run, worker)
            wait_for_all(worker)


def _train_with_previews(
    config: TrainConfig, name: str, datasets: Sequence[str], run: RunDirectory, worker: Worker
) -> None:
    if config.stages[name].previews is None or worker.rank > 0:
        train_stage(config, name, datasets, run.path, worker)
        return
    previews = Previews(config, name, datasets, run.path)
    train_stage(config, name, datasets, run.path, worker, previews.at_checkpoint)
    previews.finish()


def _cause(error: TrainingFailedError) -> str:
    """One line for the user: our own message if a worker raised one, else the first failure."""
    failures: list[BaseException] = []
    if isinstance(error, WorkerGroupError):
        failures = list(error.worker_failures.values())
    elif isinstance(error, ControllerError):
        failures = [error.controller_failure]
    for failure in failures:
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, TrainingError):
                return str(cause)
            cause = cause.__cause__
    first = failures[0] if failures else error
    lines = str(first).strip().splitlines()
    return f"{type(first).__name__}: {lines[-1] if lines else 'no message'}"


@contextmanager
def _ray_train_settings() -> Generator[None]:
    """Ray Train reads these from the environment of the driver; what the user has set stays."""
    wanted = {
        # The controller notices an ended stage within this time; its default is 2 s.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
        # Workers import torch at the same time; on a busy machine that takes longer than 60 s.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
        # One process less to start per stage. It watches cloud nodes about to be reclaimed.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    }
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


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
