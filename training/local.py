"""A whole run in this process, without Ray: the same loop on one worker, for a debugger or a machine with one GPU."""

import logging
import signal
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Unpack

import torch

from training.chain import ChainOptions, train_chain
from training.config import TrainConfig
from training.distribute import Worker
from training.loop import train_stage
from training.run_directory import RunDirectory, TrainResult

logger = logging.getLogger(__name__)


def fit_locally(
    config: TrainConfig,
    datasets: Sequence[str | Path],
    run_dir: Path,
    **options: Unpack[ChainOptions],
) -> TrainResult:
    """Train every stage that is not finished yet, in order, on one worker that is this process.

    It may go on with a run of Ray Train and the other way round: how many workers there are changes nothing of it.

    Raises:
        DataError, TrainError: as `train_chain`.
        StoppedError: SIGTERM came; the step that was reached is saved.
    """
    alone = config.model_copy(
        update={"num_workers": 1, "min_workers": None, "sharding": "none", "shard_group_size": None}
    )
    return train_chain(alone, datasets, run_dir, _train_stages, **options)


def _train_stages(
    config: TrainConfig, names: Sequence[str], datasets: Sequence[str], run: RunDirectory
) -> None:
    torch.set_num_threads(config.threads_per_worker)
    with _told_of_sigterm() as leaving:
        for name in names:
            if config.stages[name].previews is not None:
                logger.warning("stage %s has no previews: without Ray nothing makes them", name)
            worker = Worker(device=torch.device(config.device), leaving=leaving)
            train_stage(config, name, datasets, run.path, worker)


@contextmanager
def _told_of_sigterm() -> Generator[threading.Event]:
    """An event that is set when this process is asked to end, as a cluster does before it takes a machine away."""
    leaving = threading.Event()

    def leave(_number: int, _frame: FrameType | None) -> None:
        leaving.set()

    if threading.current_thread() is not threading.main_thread():
        # Only there a handler may be set.
        yield leaving
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield leaving
    finally:
        signal.signal(signal.SIGTERM, before)
