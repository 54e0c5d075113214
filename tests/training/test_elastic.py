"""A range of workers: Ray Train starts with as many as there is room for, and takes more when a machine comes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.builders import tiny_config, tiny_stage
from training.config import TrainConfig
from training.loop import prepare_run, train_stage
from training.run_directory import RunDirectory
from training.telemetry import read_metrics

# A cluster of its own, of which a second machine joins after some steps.
DRIVE = """
import sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from training.config import TrainConfig
from training.launch import fit
from training.run_directory import RunDirectory
from training.telemetry import read_metrics

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
ray.init(address=cluster.address)
run = Path(sys.argv[3])
metrics = RunDirectory(run).stage("stiv").metrics

def join() -> None:
    while not metrics.exists() or len(read_metrics(metrics)) < 5:
        time.sleep(0.1)
    cluster.add_node(num_cpus=1)

threading.Thread(target=join, daemon=True).start()
fit(TrainConfig.model_validate_json(sys.argv[1]), [sys.argv[2]], run)
cluster.shutdown()
"""


def config_of(num_steps: int, **changes: object) -> TrainConfig:
    stage = tiny_stage("stiv", num_steps=num_steps, batch_size=4, checkpoint_every_steps=5)
    return tiny_config(stages={"stiv": stage}, **changes)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_machine_that_joins_is_used_and_nothing_else_changes(
    dataset: Path, tmp_path: Path
) -> None:
    one = config_of(400, num_workers=1)
    elastic = config_of(400, num_workers=4, min_workers=1, sharding="full", resize_check_s=2.0)
    expected, run = tmp_path / "expected", tmp_path / "run"
    prepare_run(one, [dataset], expected)
    train_stage(one, "stiv", [dataset], expected)

    arguments = [elastic.model_dump_json(), str(dataset), str(run)]
    ran = subprocess.run(
        [sys.executable, "-c", DRIVE, *arguments], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    said = ran.stdout + ran.stderr
    assert "worker group of size 2" in said
    assert "worker group of size 4" in said
    steps = {path: losses_of(path) for path in (expected, run)}
    assert list(steps[run]) == list(range(1, 401))
    # What is rounding at first grows with the steps.
    for step in range(1, 41):
        assert steps[run][step] == pytest.approx(steps[expected][step], abs=2e-5)
    first = json.loads((run / "stiv" / "result.json").read_bytes())
    assert first["num_steps"] == 400


def losses_of(run: Path) -> dict[int, float]:
    lines = read_metrics(RunDirectory(run).stage("stiv").metrics)
    return {line["step"]: line["loss"] for line in lines}


def test_a_range_of_workers_is_checked() -> None:
    with pytest.raises(ValueError, match="min_workers 3 is above num_workers 2"):
        config_of(4, num_workers=2, min_workers=3)
    with pytest.raises(ValueError, match="does not form groups"):
        config_of(4, num_workers=2, min_workers=1, sharding="hybrid", shard_group_size=2)


def test_the_number_of_workers_is_no_part_of_what_a_run_computes() -> None:
    elastic = config_of(4, num_workers=2, min_workers=1)
    assert elastic.identity() == config_of(4, num_workers=1).identity()
