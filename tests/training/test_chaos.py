"""Processes that die at bad moments: at most one checkpoint interval is lost, and the rest comes out the same."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.training.builders import tiny_config, tiny_stage
from tests.training.test_sharded_stage import assert_near, tensors_of
from training.config import TrainConfig
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

owner = checkpoint_writer if sys.argv[4] in ("save_file", "write_json") else Path
original, calls = getattr(owner, sys.argv[4]), []

def die_at_second_checkpoint(*arguments, **settings):
    calls.append("step-000006" in " ".join(map(str, arguments)) or "latest.json" in str(arguments[0]))
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


def latest_of(run: Path) -> str:
    latest = RunDirectory(run).stage("stiv").checkpoints / "latest.json"
    return json.loads(latest.read_text())["directory"]


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole")
    prepare_run(config_of(), [dataset], run)
    train_stage(config_of(), "stiv", [dataset], run)
    return run


@pytest.mark.parametrize(
    ("function", "call"),
    [
        pytest.param("save_file", 2, marks=pytest.mark.slow, id="amid the tensors"),
        pytest.param("rename", 1, marks=pytest.mark.slow, id="before the rename"),
        pytest.param("write_json", 3, id="before it is named"),
    ],
)
def test_a_process_killed_during_a_save_goes_on_from_the_save_before(
    function: str, call: int, whole: Path, dataset: Path, tmp_path: Path
) -> None:
    config = config_of()
    prepare_run(config, [dataset], tmp_path)
    arguments = [config.model_dump_json(), str(dataset), str(tmp_path), function, str(call)]
    died = subprocess.run(
        [sys.executable, "-c", DIE_IN_SAVE, *arguments], capture_output=True, text=True, check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert latest_of(tmp_path) == "step-000003"

    train_stage(config, "stiv", [dataset], tmp_path)
    assert losses_of(tmp_path) == losses_of(whole)
    expected, found = tensors_of(whole, config), tensors_of(tmp_path, config)
    assert all(tensor.equal(found[name]) for name, tensor in expected.items())
    checkpoints = RunDirectory(tmp_path).stage("stiv").checkpoints
    assert not list(checkpoints.glob(".step-*"))


def kill_first_worker_at(run: Path, step: int, killed: list[float]) -> None:
    """Waits for the step; the first worker's process number is in its lock."""
    while not any(done >= step for done, _ in losses_of(run)):
        time.sleep(0.02)
    holder = json.loads((run / "trainer.lock").read_text())
    killed.append(time.monotonic())
    os.kill(holder["pid"], signal.SIGKILL)


DRIVE = """
import sys
from pathlib import Path
import ray
from training.config import TrainConfig
from training.launch import fit

ray.init(address="local", num_cpus=2, include_dashboard=False)
fit(TrainConfig.model_validate_json(sys.argv[1]), [sys.argv[2]], Path(sys.argv[3]))
"""


@contextmanager
def driven(config: TrainConfig, dataset: Path, run: Path) -> Generator[subprocess.Popen[bytes]]:
    """The driver of a run, with a Ray of its own, once it has trained five steps."""
    with subprocess.Popen(
        [sys.executable, "-c", DRIVE, config.model_dump_json(), str(dataset), str(run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as driver:
        while len(losses_of(run)) < 5:
            assert driver.poll() is None, "the driver ended by itself"
            time.sleep(0.02)
        yield driver


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("local_ray")
def test_a_killed_driver_and_a_killed_worker_lose_one_interval_at_most(
    dataset: Path, tmp_path: Path
) -> None:
    two = config_of(2, num_steps=60, sharding="full")
    one = config_of(num_steps=60)
    expected_run, run = tmp_path / "expected", tmp_path / "run"
    prepare_run(one, [dataset], expected_run)
    train_stage(one, "stiv", [dataset], expected_run)

    with driven(two, dataset, run) as driver:
        driver.kill()
    reached = len(losses_of(run))
    assert reached < 60
    kept = int(latest_of(run).removeprefix("step-"))
    assert reached - kept <= 3 + 3  # an interval, and the steps taken while the save was written

    killed: list[float] = []
    killer = threading.Thread(target=kill_first_worker_at, args=(run, 20, killed))
    killer.start()
    fit(two.model_copy(update={"num_workers": 1}), [dataset], run, resume=True)
    killer.join()
    assert killed
    found, expected = dict(losses_of(run)), dict(losses_of(expected_run))
    assert list(found) == list(range(1, 61))
    assert found == pytest.approx(expected, abs=2e-5)
    assert_near(
        {k: v for k, v in tensors_of(run, one).items() if k.startswith("average")},
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
