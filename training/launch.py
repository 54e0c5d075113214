"""A whole run on Ray Train: one group of workers, one stage after the other.

Ray Train starts, watches and restarts the workers; where a stage goes on is decided by our own
`latest.json` (`checkpoint.py`), which a restart and a new run of the driver read alike. The loop
calls `ray.train.report` nowhere: it is a barrier over all workers, and nothing here needs one.
"""

import logging
import os
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from training.chain import ChainOptions, train_chain
from training.config import TrainConfig
from training.distribute import Worker, wait_for_all
from training.errors import TrainError, WorkerError
from training.failures import MISTAKES, Retries
from training.loop import train_stage
from training.previews import Previews, preview_warnings
from training.run_directory import RunDirectory, TrainResult

logger = logging.getLogger(__name__)

CPUS_PER_WORKER = 0.5
"""What a worker asks Ray for, so that two workers fit beside others on two cores."""
NOTICE_POLL_S = 1.0
"""How often a worker asks whether its machine, or that of another one, is about to be taken away."""


def fit(
    config: TrainConfig,
    datasets: Sequence[str | Path],
    run_dir: Path,
    **options: Unpack[ChainOptions],
) -> TrainResult:
    """Train every stage that is not finished yet, in order, on Ray Train. Ray must be initialised by the caller.

    Raises:
        DataError: the shards are broken, or hold no usable clip.
        TrainError: Ray is not running, the directory holds another run or one to be resumed, another trainer
            writes the run, or a worker met a mistake in what it was given.
        WorkerError: a worker was lost more often than Ray Train starts one again.
    """
    if not ray.is_initialized():
        raise TrainError("Ray is not running in this process; call ray.init() before fit()")
    return train_chain(config, datasets, run_dir, _fit_stages, **options)


def _fit_stages(
    config: TrainConfig, names: Sequence[str], datasets: Sequence[str], run: RunDirectory
) -> None:
    """One group of workers for all of them: to start a group takes as long as a small stage."""
    for warning in preview_warnings(config, names, ray.cluster_resources().get("GPU", 0.0)):
        logger.warning(warning)
    watches_notices = _may_lose_machines(config)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={
            "config": config.model_dump_json(),
            "stages": list(names),
            "datasets": list(datasets),
            "run_dir": str(run.path),
            "watches_notices": watches_notices,
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
            # Without limit: `Retries` knows when to give up.
            failure_config=FailureConfig(max_failures=-1),
            callbacks=[Retries(run.path, tuple(names), config.max_worker_failures)],
        ),
    )
    try:
        with _ray_train_settings(config, watches_notices):
            trainer.fit()
    except TrainingFailedError as error:
        unfinished = (name for name in names if run.stage(name).result() is None)
        failed = next(unfinished, names[-1])
        raise failure_of(failed, error) from error
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
    if settings["watches_notices"]:
        threading.Thread(target=_watch_notices, args=[worker.leaving], daemon=True).start()
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


def failure_of(stage: str, error: TrainingFailedError) -> TrainError | WorkerError:
    """One line for the user: our own message if a worker met a mistake, else the first failure."""
    failures: list[BaseException] = []
    if isinstance(error, WorkerGroupError):
        failures = list(error.worker_failures.values())
    elif isinstance(error, ControllerError):
        failures = [error.controller_failure]
    for failure in failures:
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, MISTAKES):
                return TrainError(f"stage {stage} failed: {cause}")
            cause = cause.__cause__
    first = failures[0] if failures else error
    lines = str(first).strip().splitlines()
    said = lines[-1] if lines else "no message"
    return WorkerError(f"stage {stage} failed: {type(first).__name__}: {said}")


def _may_lose_machines(config: TrainConfig) -> bool:
    """Whether workers may be on a machine that is taken away while the driver's stays."""
    return config.min_workers is not None or sum(node["Alive"] for node in ray.nodes()) > 1


def _watch_notices(leaving: threading.Event) -> None:
    """Ask Ray Train, in step with the other workers, until it has been told that a machine will be taken away."""
    while ray.train.get_preemption_info() is None:
        time.sleep(NOTICE_POLL_S)
    leaving.set()


@contextmanager
def _ray_train_settings(config: TrainConfig, watches_notices: bool) -> Generator[None]:
    """Ray Train reads these from the environment of the driver; what the user has set stays."""
    wanted = {
        # The controller notices an ended stage within this time; its default is 2 s.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
        # A process more to start with each group of workers. It watches machines about to be reclaimed.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1" if watches_notices else "0",
    }
    if config.min_workers is not None:
        # For up to 20 s after a machine has gone Ray Train believes in it, and waits for room on it.
        wanted["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "15"
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
