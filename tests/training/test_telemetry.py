import json
from pathlib import Path

import torch
from PIL import Image

from training.run_directory import StageDirectory
from training.telemetry import StepMetrics, Telemetry, bin_losses, mean_of_tenth, read_metrics


def metrics(step: int) -> StepMetrics:
    return StepMetrics(
        step=step,
        loss=2.0 / step,
        learning_rate=1e-3,
        grad_norm=0.5,
        tokens_per_s=100.0,
        data_wait_s=0.01,
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
        assert curve.size == (960, 540)
    assert len(list(directory.tensorboard.iterdir())) == 1
    assert read_metrics(directory.metrics)[0]["loss_by_timestep"] == [1.0, None, 2.0, 3.0]


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


def test_losses_fall_into_quarters_of_the_path() -> None:
    sums = bin_losses(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 0.9, 1.0]))
    assert sums.tolist() == [[1.0, 0.0, 0.0, 6.0], [1.0, 0.0, 0.0, 2.0]]
