"""A range of workers: what it may be, that it is no part of what a run computes, and machines that come and go."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.training.builders import tiny_config, tiny_stage, write_dataset
from training.config import TrainConfig
from training.loop import prepare_run, train_stage
from training.run_directory import RunDirectory
from training.step_lines import read_steps

# One worker to a machine, on a cluster of its own. A machine joins and is lost; another joins, is announced to be taken
# away, and is. Then the driver dies: how far it has come depends on the computer.
DRIVE = """
import os, subprocess, sys, threading, time, traceback
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from training import launch
from training.config import TrainConfig
from training.run_directory import RunDirectory
from training.step_lines import read_steps

launch.CPUS_PER_WORKER = 1.0
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
ray.init(address=cluster.address)
run = Path(sys.argv[3])

def wait_for(num_workers):
    # Some steps of so many workers, after those of another number of them.
    metrics = RunDirectory(run).stage("stiv").metrics
    while [line["num_workers"] for line in read_steps(metrics)[-7:]] != [num_workers] * 7:
        time.sleep(0.1)

def come_and_go():
    wait_for(1)
    lost = cluster.add_node(num_cpus=1)
    wait_for(2)
    cluster.remove_node(lost, allow_graceful=False)
    wait_for(1)
    taken = cluster.add_node(num_cpus=1)
    wait_for(2)
    subprocess.run(
        [Path(sys.executable).with_name("ray"), "drain-node", "--address", cluster.address, "--node-id", taken.node_id,
         "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "x", "--deadline-remaining-seconds", "60"],
        check=True,
    )
    while "StoppedError" not in RunDirectory(run).failures.read_text():
        time.sleep(0.1)
    cluster.remove_node(taken)
    wait_for(1)
    os._exit(0)

def train():
    # What fails here must end the run, which has no end of its own.
    try:
        launch.fit(TrainConfig.model_validate_json(sys.argv[1]), [sys.argv[2]], run)
    finally:
        traceback.print_exc()
        os._exit(1)

threading.Thread(target=train, daemon=True).start()
# Only the main thread may start a machine.
come_and_go()
"""


def config_of(num_steps: int, **changes: object) -> TrainConfig:
    stage = tiny_stage("stiv", num_steps=num_steps, batch_size=4, checkpoint_every_steps=5)
    return tiny_config(stages={"stiv": stage}, **changes)


def test_a_range_of_workers_is_checked() -> None:
    with pytest.raises(ValueError, match="min_workers 3 is above num_workers 2"):
        config_of(4, num_workers=2, min_workers=3)
    with pytest.raises(ValueError, match="does not form groups"):
        config_of(4, num_workers=2, min_workers=1, sharding="hybrid", shard_group_size=2)


def test_the_number_of_workers_is_no_part_of_what_a_run_computes() -> None:
    elastic = config_of(4, num_workers=2, min_workers=1)
    assert elastic.identity() == config_of(4, num_workers=1).identity()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.machines
@pytest.mark.timeout(900)
def test_machines_that_come_and_go_change_the_workers_and_nothing_else(tmp_path: Path) -> None:
    """Weights hardly move, so that every loss tells the samples of its step, however many steps went before."""
    dataset = write_dataset(tmp_path / "data", list(range(9, 33)))
    validation = {"share": 0.5, "every_steps": 1, "batch_size": 2, "num_batches": 20}
    changes: dict[str, Any] = {
        "batch_size": 4,
        "checkpoint_every_steps": 5,
        "optimizer": {"learning_rate": 1e-9, "warmup_steps": 0},
        # It slows the steps down, and is no part of what is trained.
        "validation": validation,
    }
    stage = tiny_stage("stiv", num_steps=10**6, **changes)
    elastic = tiny_config(
        stages={"stiv": stage}, num_workers=2, min_workers=1, sharding="full", resize_check_s=2.0
    )
    run = tmp_path / "run"
    arguments = [elastic.model_dump_json(), str(dataset), str(run)]
    ran = subprocess.run(
        [sys.executable, "-c", DRIVE, *arguments], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-4000:]

    lines = read_steps(RunDirectory(run).stage("stiv").metrics)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    failures = [json.loads(line) for line in RunDirectory(run).failures.read_text().splitlines()]
    (announced,) = [f for f in failures if "StoppedError" in str(f["workers"])]
    stopped_at = announced["checkpoints"]["stiv"]
    # What two workers had done before they were told of it is not done again.
    assert (lines[stopped_at - 1]["num_workers"], lines[stopped_at]["num_workers"]) == (2, 1)
    assert f"after step {stopped_at}, which is saved" in str(announced["workers"])

    expected = tmp_path / "expected"
    seldom = {**validation, "every_steps": 10**6, "num_batches": 1}
    one = tiny_stage("stiv", **{**changes, "num_steps": len(lines), "validation": seldom})
    config = tiny_config(stages={"stiv": one}, num_workers=1)
    prepare_run(config, [dataset], expected)
    train_stage(config, "stiv", [dataset], expected)
    wanted = [line["loss"] for line in read_steps(RunDirectory(expected).stage("stiv").metrics)]
    assert [line["loss"] for line in lines] == pytest.approx(wanted, abs=1e-5)
