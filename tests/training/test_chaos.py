"""Processes that die at bad moments: what was saved is gone on from, and the rest comes out the same."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from safetensors.torch import save_file
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException

from tests.training.builders import tiny_config, tiny_stage
from tests.training.processes import run_workers
from tests.training.test_sharded_stage import assert_near, tensors_of, train
from training import checkpoint_writer
from training.checkpoint import latest_step
from training.config import TrainConfig
from training.distribute import Worker
from training.errors import StoppedError
from training.launch import fit
from training.loop import prepare_run, train_stage
from training.run_directory import RunDirectory
from training.telemetry import read_metrics

# The process kills itself, as kill -9 would, where the named function is called for the second checkpoint.
DIE_IN_SAVE = """
import os, signal, sys
from pathlib import Path
from training import checkpoint_writer
from training.config import TrainConfig
from training.loop import train_stage

owners = {"rename": Path, "_prune": checkpoint_writer.CheckpointWriter}
owner = owners.get(sys.argv[4], checkpoint_writer)
original, calls = getattr(owner, sys.argv[4]), []

def die_at_second_checkpoint(*arguments, **settings):
    is_of_second = "step-000006" in " ".join(map(str, arguments)) or arguments[1:2] == (6,)
    calls.append(is_of_second or "latest.json" in str(arguments[0]))
    if sum(calls) == int(sys.argv[5]):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **settings)

setattr(owner, sys.argv[4], die_at_second_checkpoint)
train_stage(TrainConfig.model_validate_json(sys.argv[1]), "stiv", [sys.argv[2]], Path(sys.argv[3]))
"""


def config_of(num_workers: int = 1, num_steps: int = 6, **changes: str) -> TrainConfig:
    stage = tiny_stage("stiv", num_steps=num_steps, batch_size=4, checkpoint_every_steps=3)
    return tiny_config(stages={"stiv": stage}, num_workers=num_workers, **changes)


def losses_of(run: Path) -> list[tuple[int, float]]:
    lines = read_metrics(RunDirectory(run).stage("stiv").metrics)
    return [(line["step"], line["loss"]) for line in lines]


def latest_of(run: Path) -> int:
    step = latest_step(RunDirectory(run).stage("stiv").checkpoints)
    assert step is not None
    return step


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole")
    prepare_run(config_of(), [dataset], run)
    train_stage(config_of(), "stiv", [dataset], run)
    return run


@pytest.mark.parametrize(
    ("function", "call", "step"),
    [
        pytest.param("save_file", 2, 3, marks=pytest.mark.slow, id="amid the tensors"),
        pytest.param("rename", 1, 3, marks=pytest.mark.slow, id="before the rename"),
        pytest.param("write_json", 3, 3, id="before it is named"),
        pytest.param("_prune", 1, 6, marks=pytest.mark.slow, id="right after it is named"),
    ],
)
def test_a_process_killed_during_a_save_goes_on_from_the_last_that_is_named(
    function: str, call: int, step: int, whole: Path, dataset: Path, tmp_path: Path
) -> None:
    config = config_of()
    prepare_run(config, [dataset], tmp_path)
    arguments = [config.model_dump_json(), str(dataset), str(tmp_path), function, str(call)]
    died = subprocess.run(
        [sys.executable, "-c", DIE_IN_SAVE, *arguments], capture_output=True, text=True, check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert latest_of(tmp_path) == step
    assert RunDirectory(tmp_path).stage("stiv").result() is None

    train_stage(config, "stiv", [dataset], tmp_path)
    assert losses_of(tmp_path) == losses_of(whole)
    expected, found = tensors_of(whole, config), tensors_of(tmp_path, config)
    assert all(tensor.equal(found[name]) for name, tensor in expected.items())
    checkpoints = RunDirectory(tmp_path).stage("stiv").checkpoints
    assert not list(checkpoints.glob(".step-*"))


def die_amid_the_tensors(rank: int, config_json: str, dataset: str, run: str) -> None:
    """The second of two workers dies where it writes its part of the second checkpoint."""

    def die(tensors: dict[str, Tensor], path: Path) -> None:
        if "step-000006" in str(path):
            os.kill(os.getpid(), signal.SIGKILL)
        save_file(tensors, path)

    if rank == 1:
        checkpoint_writer.save_file = die
    train(rank, config_json, dataset, run)


def stop_at_once(rank: int, config_json: str, dataset: str, run: str) -> None:
    """The second of two workers hears that its machine will be taken away."""
    config = TrainConfig.model_validate_json(config_json)
    worker = Worker(rank, 2)
    if rank == 1:
        worker.leaving.set()
    with pytest.raises(StoppedError, match="did so after step 4, which is saved"):
        train_stage(config, "stiv", [dataset], Path(run), worker)


@pytest.mark.slow
def test_a_sharded_save_of_which_a_worker_dies_does_not_count_and_a_notice_loses_no_step(
    whole: Path, dataset: Path, tmp_path: Path
) -> None:
    two, one = config_of(2, sharding="full"), config_of()
    prepare_run(two, [dataset], tmp_path)
    arguments = (two.model_dump_json(), str(dataset), str(tmp_path))
    with pytest.raises(ProcessExitedException):
        run_workers(die_amid_the_tensors, 2, tmp_path, *arguments)
    assert latest_of(tmp_path) == 3
    run_workers(stop_at_once, 2, tmp_path, *arguments)
    assert latest_of(tmp_path) == 4

    run_workers(train, 2, tmp_path, *arguments)
    expected, found = dict(losses_of(whole)), dict(losses_of(tmp_path))
    assert found == pytest.approx(expected, abs=1e-6)
    assert_near(tensors_of(tmp_path, two), tensors_of(whole, one))


def kill_workers_at(run: Path, steps: tuple[int, int], killed: list[int]) -> None:
    """Wait for each step, then kill a worker: first the one that writes nothing, then the first, which is in its lock."""
    ours = psutil.Process()
    for step, is_first in zip(steps, (False, True), strict=True):
        while not any(done >= step for done, _ in losses_of(run)):
            time.sleep(0.02)
        holder = json.loads((run / "trainer.lock").read_text())["pid"]
        for process in ours.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                is_worker = "RayTrainWorker" in " ".join(process.cmdline())
                if is_worker and (process.pid == holder) == is_first:
                    process.kill()
                    killed.append(process.pid)
                    break


DRIVE = """
import sys
from pathlib import Path
import ray
from training.config import TrainConfig
from training.launch import fit

ray.init(address="local", num_cpus=2, include_dashboard=False)
fit(TrainConfig.model_validate_json(sys.argv[1]), [sys.argv[2]], Path(sys.argv[3]))
"""


def is_saving(run: Path) -> bool:
    checkpoints = RunDirectory(run).stage("stiv").checkpoints
    return any(checkpoints.glob(".step-*.tmp"))


@contextmanager
def driven(
    config: TrainConfig, dataset: Path, run: Path, until: Callable[[Path], bool] = lambda _run: True
) -> Generator[subprocess.Popen[bytes]]:
    """The driver of a run, with a Ray of its own, once it has trained five steps and `until` holds."""
    with subprocess.Popen(
        [sys.executable, "-c", DRIVE, config.model_dump_json(), str(dataset), str(run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as driver:
        while len(losses_of(run)) < 5 or not until(run):
            assert driver.poll() is None, "the driver ended by itself"
            time.sleep(0.001)
        yield driver


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("local_ray")
def test_a_driver_killed_during_a_save_and_two_killed_workers_change_nothing(
    dataset: Path, tmp_path: Path
) -> None:
    two = config_of(2, num_steps=60, sharding="full")
    one = config_of(num_steps=60)
    expected_run, run = tmp_path / "expected", tmp_path / "run"
    prepare_run(one, [dataset], expected_run)
    train_stage(one, "stiv", [dataset], expected_run)

    with driven(two, dataset, run, is_saving) as driver:
        driver.kill()
    reached = len(losses_of(run))
    assert reached < 60
    # An interval, and the steps taken while the save was written; never more than another one.
    assert reached - latest_of(run) <= 3 + 3

    killed: list[int] = []
    killer = threading.Thread(target=kill_workers_at, args=(run, (20, 40), killed))
    killer.start()
    fit(two, [dataset], run, resume=True)
    killer.join()
    assert len(killed) == 2
    failures = RunDirectory(run).failures.read_text().splitlines()
    assert len(failures) == 2
    found, expected = dict(losses_of(run)), dict(losses_of(expected_run))
    assert list(found) == list(range(1, 61))
    assert found == pytest.approx(expected, abs=2e-5)
    assert_near(
        {k: v for k, v in tensors_of(run, two).items() if k.startswith("average")},
        {k: v for k, v in tensors_of(expected_run, one).items() if k.startswith("average")},
        tolerance=2e-5,  # what is rounding in 6 steps has grown in 60
    )


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("local_ray")
def test_a_killed_ray_ends_the_driver_and_another_ray_goes_on_exactly(
    dataset: Path, tmp_path: Path
) -> None:
    config = config_of(num_steps=60)
    expected_run, run = tmp_path / "expected", tmp_path / "run"
    prepare_run(config, [dataset], expected_run)
    train_stage(config, "stiv", [dataset], expected_run)

    with driven(config, dataset, run) as driver:
        # Ray gives its head a minute to come back before the driver ends.
        for process in psutil.Process(driver.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        assert driver.wait(timeout=120) != 0
    assert len(losses_of(run)) < 60

    fit(config, [dataset], run, resume=True)
    assert losses_of(run) == losses_of(expected_run)
    expected, found = tensors_of(expected_run, config), tensors_of(run, config)
    assert all(tensor.equal(found[name]) for name, tensor in expected.items())
