import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.builders import tiny_config, tiny_stage
from training.loop import prepare_run, train_stage
from training.run_directory import RunDirectory, StageDirectory
from training.sending import Sending
from training.sinks import MlflowSink, WandbSink, flat_numbers
from training.step_lines import read_last_steps
from training.telemetry import (
    StepMetrics,
    Telemetry,
    bin_losses,
    mean_losses,
    mean_of_tenth,
    read_metrics,
    running_mean,
)


def metrics(step: int) -> StepMetrics:
    return StepMetrics(
        step=step,
        loss=2.0 / step,
        learning_rate=1e-3,
        grad_norm=0.5,
        tokens_per_s=100.0,
        tokens_processed_per_s=50.0,
        tflops_per_s=0.5,
        mfu=None,
        data_wait_s=0.01,
        data_wait_share=0.1,
        num_skipped=0,
        peak_memory_mb=100.0,
        step_s=0.1,
        loss_by_timestep=(1.0, None, 2.0, 3.0),
    )


def test_a_resumed_stage_forgets_the_steps_after_its_checkpoint(tmp_path: Path) -> None:
    directory = StageDirectory(tmp_path / "t2v")
    first = Telemetry(directory, 0)
    for step in range(1, 8):
        first.log(metrics(step))
    first.close()
    with directory.metrics.open("a") as file:
        file.write('{"step": 8, "lo')

    second = Telemetry(directory, 5)
    second.log(metrics(6))
    assert [line["step"] for line in second.finish()] == [1, 2, 3, 4, 5, 6]


def test_a_stage_leaves_a_curve_and_tensorboard_events(tmp_path: Path) -> None:
    directory = StageDirectory(tmp_path / "t2v")
    telemetry = Telemetry(directory, 0)
    telemetry.log(metrics(1))
    telemetry.log(metrics(2))
    telemetry.finish()

    with Image.open(directory.loss_curve) as curve:
        assert curve.size == (960, 432)
    assert len(list(directory.tensorboard.iterdir())) == 1
    assert read_metrics(directory.metrics)[0]["loss_by_timestep"] == [1.0, None, 2.0, 3.0]


def test_a_running_mean_forgets_and_skips_what_is_absent() -> None:
    values = [1.0, 3.0, None, 5.0, None, None]
    assert running_mean(values, 2) == pytest.approx([1, 2, 3, 5, 5, np.nan], nan_ok=True)


def test_the_last_steps_are_read_without_the_others(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "text": "x" * 1000}) + "\n" for step in range(1000)]
    path.write_text("".join(lines) + '{"step": 1000')
    found = [line["step"] for line in read_last_steps(path)]
    assert found == list(range(1000 - len(found), 1000))
    assert 50 < len(found) < 150
    path.write_text(lines[0])
    assert len(read_last_steps(path)) == 1
    assert read_last_steps(tmp_path / "absent") == []


def test_half_a_line_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1}) + '\n{"step": 2')
    assert read_metrics(path) == [{"step": 1}]
    assert read_metrics(tmp_path / "absent") == []


def test_tenths_are_means_over_the_ends() -> None:
    losses = [float(n) for n in range(1, 31)]
    assert mean_of_tenth(losses, last=False) == 2.0
    assert mean_of_tenth(losses, last=True) == 29.0
    assert mean_of_tenth([5.0, 3.0], last=True) == 3.0


def test_losses_fall_into_quarters_of_the_path_and_by_task() -> None:
    sums = bin_losses(
        torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 0.9, 1.0]), torch.tensor([3, 1, 3])
    )
    assert sums.tolist() == [
        [1.0, 0.0, 0.0, 6.0, 0.0, 2.0, 0.0, 5.0],
        [1.0, 0.0, 0.0, 2.0, 0.0, 1.0, 0.0, 2.0],
    ]
    means = mean_losses(sums)
    assert means.loss == pytest.approx(7 / 3)
    assert means.by_timestep == (1.0, None, None, 3.0)
    assert means.by_task == {"neither": None, "text": 2.0, "image": None, "both": 2.5}


def test_numbers_are_flat_and_finite() -> None:
    values = {"a": 1, "b": None, "c": {"d": 2.5, "e": float("nan")}, "f": "x"}
    assert flat_numbers(values) == {"a": 1.0, "c/d": 2.5}


class ShakySink:
    """Takes nothing while `is_down`; as a server that is restarted."""

    name = "shaky"
    errors = (ConnectionError,)

    def __init__(self) -> None:
        self.is_down = threading.Event()
        self.is_down.set()
        self.may_open = threading.Event()
        self.may_open.set()
        self.steps: list[int] = []
        self.is_closed = False

    def open(self) -> None:
        self.may_open.wait()
        if self.is_down.is_set():
            raise ConnectionError("nobody answers\nand so on")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.open()
        self.steps.append(step)

    def close(self) -> None:
        self.open()
        self.is_closed = True


def test_an_outage_is_told_once_and_waited_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("training.sending.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("training.sending.LAST_PAUSE_S", 0.02)
    monkeypatch.setattr("training.sending.MAX_WAITING", 5)
    sink = ShakySink()
    sending = Sending(sink)
    for step in range(1, 11):
        sending.put(step, {"loss": 1.0})
    time.sleep(0.2)
    assert sink.steps == []
    sink.is_down.clear()
    wait_until(lambda: len(sink.steps) == 5)
    sink.is_down.set()
    sending.put(11, {"loss": 1.0})
    time.sleep(0.1)
    sink.is_down.clear()
    sending.close()
    assert sink.steps == [6, 7, 8, 9, 10, 11]
    assert sink.is_closed
    told = [record.message for record in caplog.records]
    assert told == [
        "shaky takes no metrics (ConnectionError: nobody answers); training goes on, and the last 5 steps are kept for it",
        "shaky takes metrics again",
        "shaky takes no metrics (ConnectionError: nobody answers); training goes on, and the last 5 steps are kept for it",
        "shaky takes metrics again",
        "shaky did not take the metrics of 5 steps; they are in metrics.jsonl",
    ]


def wait_until(condition: Callable[[], bool]) -> None:
    given_up_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < given_up_s
        time.sleep(0.01)


def test_a_sink_that_hangs_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    sink = ShakySink()
    sink.is_down.clear()
    sink.may_open.clear()
    sending = Sending(sink)
    sending.put(1, {})
    started_s = time.monotonic()
    sending.close(timeout_s=0.1)
    assert time.monotonic() - started_s < 5
    assert "shaky did not take the metrics of 1 steps" in caplog.text
    sink.may_open.set()


@pytest.mark.slow
def test_a_stage_is_trained_to_its_end_while_its_tracker_is_down(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = tiny_config(stages={"t2i": tiny_stage("t2i")}, trackers=("mlflow",))
    prepare_run(config, [dataset], tmp_path)
    train_stage(config, "t2i", [dataset], tmp_path)
    assert RunDirectory(tmp_path).stage("t2i").result() is not None
    assert "MLflow takes no metrics (MlflowException: " in caplog.text
    assert "MLflow did not take the metrics of 4 steps" in caplog.text


@pytest.mark.slow
def test_wandb_takes_a_stage_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    sink = WandbSink(tmp_path / "wandb", "test/t2v", {"seed": 0})
    sink.open()
    sink.log(1, {"loss": 0.5})
    sink.close()
    (written,) = tmp_path.glob("wandb/wandb/offline-run-*/run-*.wandb")
    assert b"loss" in written.read_bytes()


@pytest.mark.slow
def test_mlflow_keeps_a_stage_one_run_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for step in (1, 2):
        sink = MlflowSink(tmp_path / "mlflow", "test/t2v", {"seed": 0})
        sink.open()
        sink.log(step, {"loss": 1.0 / step})
        sink.close()
    (written,) = tmp_path.glob("mlflow/*/*/metrics/loss")
    lines = [line.split() for line in written.read_text().splitlines()]
    assert [(float(value), int(step)) for _, value, step in lines] == [(1.0, 1), (0.5, 2)]
