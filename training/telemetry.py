"""What a stage measures: one JSON line and the same to each sink per step, and a loss curve."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.run_directory import StageDirectory
from training.sending import Sending
from training.sinks import Sink, TensorBoardSink, flat_numbers
from training.step_lines import forget_steps_after, read_steps

NUM_TIMESTEP_BINS = 4


TASKS = ("neither", "text", "image", "both")
"""By which conditions a sample kept: its text, its given frames."""


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """One optimizer step over all workers. `step` counts from 1: it is the number of steps done."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    """Before clipping."""
    tokens_per_s: float
    """Tokens of the global batch, masked ones included, over the wall time of the step."""
    tokens_processed_per_s: float
    """Those of them that the main blocks saw."""
    tflops_per_s: float
    """Of each worker, by the formula of `modeling.flops`: masked tokens and recomputation do not count."""
    mfu: float | None
    """Over the stated peak; None where none is stated."""
    data_wait_s: float
    """For the batch to be read; of the first worker, like the next ones."""
    data_wait_share: float
    """Of the wall time of the step."""
    num_skipped: int
    """Samples that could not be read since the stage was started or resumed."""
    peak_memory_mb: float
    """Of the host."""
    peak_gpu_memory_mb: float | None = None
    step_s: float
    num_workers: int = 1
    """That shared the step."""
    telemetry_s: float = 0.0
    """That training waited for the metrics of the step before to be made and written."""
    loss_by_timestep: tuple[float | None, ...]
    """Mean loss of the samples in each quarter of t from noise to data; None where none fell."""
    loss_by_task: dict[str, float | None] = field(default_factory=dict[str, float | None])
    """The same by the conditions that were kept (`TASKS`)."""


class Telemetry:
    """Writes the metrics of one stage. On resume it first drops what lies beyond the checkpoint.

    metrics.jsonl is what the result of a stage is made from: where it cannot be written, training stops. What goes to
    TensorBoard and the trackers is a copy; their outages are told and waited out (`sending.py`).
    """

    def __init__(
        self, directory: StageDirectory, first_step: int, more_sinks: Sequence[Sink] = ()
    ) -> None:
        directory.path.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        forget_steps_after(directory.metrics, first_step)
        forget_steps_after(directory.validation, first_step)
        self._lines = directory.metrics.open("a", buffering=1)
        sinks: list[Sink] = [TensorBoardSink(directory.tensorboard, first_step), *more_sinks]
        self.sendings = [Sending(sink) for sink in sinks]

    def log(self, metrics: StepMetrics) -> None:
        values = asdict(metrics)
        self._lines.write(json.dumps(values) + "\n")
        del values["step"], values["loss_by_timestep"], values["loss_by_task"]
        quarters = zip(timestep_names(), metrics.loss_by_timestep, strict=True)
        numbers = flat_numbers(
            {**values, "loss_by_t": dict(quarters), "loss_by_task": metrics.loss_by_task}
        )
        self._send(metrics.step, numbers)

    def log_validation(self, step: int, losses: Mapping[str, Any]) -> None:
        """`losses` has the mean as `loss`; one line of their own file."""
        with self._directory.validation.open("a") as file:
            file.write(json.dumps({"step": step, **losses}) + "\n")
        self._send(step, flat_numbers({"validation": losses}))

    def _send(self, step: int, numbers: Mapping[str, float]) -> None:
        for sending in self.sendings:
            sending.put(step, numbers)

    def finish(self) -> list[dict[str, Any]]:
        """Draw the loss curve and return the metrics of all steps."""
        self.close()
        metrics = read_metrics(self._directory.metrics)
        draw_loss_curve(metrics, self._directory.loss_curve)
        return metrics

    def close(self) -> None:
        self._lines.close()
        for sending in self.sendings:
            sending.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The metrics of every step in a file of them."""
    return read_steps(path)


def mean_of_tenth(losses: Sequence[float], *, last: bool) -> float:
    """Mean over the first or last tenth of the steps, one step at least."""
    count = max(1, len(losses) // 10)
    chosen = losses[-count:] if last else losses[:count]
    return sum(chosen) / count


def timestep_names() -> list[str]:
    """Of the bins of t."""
    edges = [place / NUM_TIMESTEP_BINS for place in range(NUM_TIMESTEP_BINS + 1)]
    return [f"{low:.2f}-{high:.2f}" for low, high in pairwise(edges)]


def bin_losses(per_sample_B: Tensor, t_B: Tensor, task_B: Tensor) -> Tensor:
    """(2, bins + tasks) float64: the sum of the losses and the number of samples, in each bin of t and of each task.

    `task_B` are places in `TASKS`.
    """
    bin_B = (t_B * NUM_TIMESTEP_BINS).long().clamp(max=NUM_TIMESTEP_BINS - 1)
    sums = torch.zeros(2, NUM_TIMESTEP_BINS + len(TASKS), dtype=torch.float64, device=t_B.device)
    for place_B in (bin_B, task_B + NUM_TIMESTEP_BINS):
        sums[0].index_add_(0, place_B, per_sample_B.double())
        sums[1].index_add_(0, place_B, torch.ones_like(per_sample_B, dtype=torch.float64))
    return sums


@dataclass(frozen=True, slots=True)
class MeanLosses:
    """Of the samples of one or more global batches."""

    loss: float
    by_timestep: tuple[float | None, ...]
    by_task: dict[str, float | None]


def mean_losses(sums: Tensor) -> MeanLosses:
    """From what `bin_losses` gives, added up over workers and batches."""
    losses, counts = sums.tolist()
    means = [loss / count if count else None for loss, count in zip(losses, counts, strict=True)]
    bins = slice(NUM_TIMESTEP_BINS)
    return MeanLosses(
        loss=sum(losses[bins]) / sum(counts[bins]),
        by_timestep=tuple(means[bins]),
        by_task=dict(zip(TASKS, means[NUM_TIMESTEP_BINS:], strict=True)),
    )


def draw_loss_curve(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss per step with its running mean over a twentieth of the steps, and beside it that mean in each bin of t.

    `metrics` are lines of a stage, from `read_metrics`.
    """
    # Only here: it takes seconds, for which workers that are started again would be waited for. And not pyplot: it keeps
    # global state and picks a window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    whole, binned = figure.subplots(1, 2)
    steps = [line["step"] for line in metrics]
    window = max(1, len(steps) // 20)
    losses = [line["loss"] for line in metrics]
    whole.plot(steps, losses, linewidth=0.7, alpha=0.5, label="loss of one step")
    whole.plot(steps, running_mean(losses, window), linewidth=1.8, label=f"mean of {window} steps")
    for place, name in enumerate(timestep_names()):
        of_bin = [line["loss_by_timestep"][place] for line in metrics]
        means = running_mean(of_bin, window)
        # A step alone is a point, which a line does not show.
        binned.plot(steps, means, linewidth=1.4, marker="." if len(steps) < 10 else "", label=name)
    whole.set(ylabel="velocity loss", title=path.parent.name)
    binned.set(title=f"by t, from noise (0) to data (1), mean of {window} steps")
    for axes in (whole, binned):
        axes.set_xlabel("optimizer step")
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=96)


def running_mean(values: Sequence[float | None], window: int) -> NDArray[np.float64]:
    """Of each value with those before it, at most `window` in all; None counts as absent. NaN where all of them are."""
    numbers = np.array([np.nan if value is None else value for value in values], np.float64)
    present = ~np.isnan(numbers)
    sums = np.concatenate([[0.0], np.cumsum(np.where(present, numbers, 0.0))])
    counts = np.concatenate([[0], np.cumsum(present)])
    first = np.maximum(np.arange(len(numbers)) + 1 - window, 0)
    in_window = counts[1:] - counts[first]
    means = (sums[1:] - sums[first]) / np.maximum(in_window, 1)
    return np.where(in_window > 0, means, np.nan)
