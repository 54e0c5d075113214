"""A run without Ray, as a user starts it: told to end it saves its step, and goes on from there."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.checkpoint import latest_step
from training.run_directory import RunDirectory
from training.step_lines import read_steps

NUM_STEPS = 80
SETTINGS = {"num_steps": NUM_STEPS, "batch_size": 2, "checkpoint_every_steps": 1000}


@pytest.mark.slow
def test_a_run_without_ray_saves_when_told_to_end_and_goes_on(
    dataset: Path, tmp_path: Path
) -> None:
    changes = [f"--set=stages.t2i.{name}={value}" for name, value in SETTINGS.items()]
    where = ["--dataset", str(dataset), "--run", str(tmp_path), "--stage", "t2i"]
    command = [Path(sys.executable).with_name("stiv"), "train", "--local", *where, *changes]
    stage = RunDirectory(tmp_path).stage("t2i")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as training:
        while len(read_steps(stage.metrics)) < 3:
            assert training.poll() is None, "it ended by itself"
            time.sleep(0.01)
        training.send_signal(signal.SIGTERM)
        _, told = training.communicate()
    assert training.returncode == 2, told
    reached = latest_step(stage.checkpoints)
    assert reached is not None
    assert 3 <= reached < NUM_STEPS
    assert f"stage t2i was asked to stop and did so after step {reached}, which is saved" in told
    assert [line["step"] for line in read_steps(stage.metrics)] == list(range(1, reached + 1))

    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert [line["step"] for line in read_steps(stage.metrics)] == list(range(1, NUM_STEPS + 1))
    assert stage.result() is not None
    assert not (tmp_path / "ray").exists()
