"""What a stage measures: one JSON line and one TensorBoard event per step, and a loss curve."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from training.run_directory import StageDirectory
from training.step_lines import forget_steps_after, read_steps

NUM_TIMESTEP_BINS = 4


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
    data_wait_s: float
    """For the batch to be read; of the first worker, like the next two."""
    num_skipped: int
    """Samples that could not be read since the stage was started or resumed."""
    peak_memory_mb: float
    step_s: float
    loss_by_timestep: tuple[float | None, ...]
    """Mean loss of the samples in each quarter of t from noise to data; None where none fell."""


class Telemetry:
    """Writes the metrics of one stage. On resume it first drops what lies beyond the checkpoint."""

    def __init__(self, directory: StageDirectory, first_step: int) -> None:
        directory.path.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        forget_steps_after(directory.metrics, first_step)
        self._lines = directory.metrics.open("a", buffering=1)
        self._events = SummaryWriter(str(directory.tensorboard), purge_step=first_step + 1)

    def log(self, metrics: StepMetrics) -> None:
        self._lines.write(json.dumps(asdict(metrics)) + "\n")
        for name in (
            "loss",
            "learning_rate",
            "grad_norm",
            "tokens_per_s",
            "data_wait_s",
            "peak_memory_mb",
        ):
            self._events.add_scalar(name, getattr(metrics, name), metrics.step)
        for place, loss in enumerate(metrics.loss_by_timestep):
            if loss is not None:
                low, high = place / NUM_TIMESTEP_BINS, (place + 1) / NUM_TIMESTEP_BINS
                self._events.add_scalar(f"loss_by_t/{low:.2f}-{high:.2f}", loss, metrics.step)

    def finish(self) -> list[dict[str, Any]]:
        """Draw the loss curve and return the metrics of all steps."""
        self.close()
        metrics = read_metrics(self._directory.metrics)
        draw_loss_curve([m["loss"] for m in metrics], self._directory.loss_curve)
        return metrics

    def close(self) -> None:
        self._lines.close()
        self._events.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The metrics of every step in a file of them."""
    return read_steps(path)


def mean_of_tenth(losses: Sequence[float], *, last: bool) -> float:
    """Mean over the first or last tenth of the steps, one step at least."""
    count = max(1, len(losses) // 10)
    chosen = losses[-count:] if last else losses[:count]
    return sum(chosen) / count


def bin_losses(per_sample_B: Tensor, t_B: Tensor) -> Tensor:
    """(2, bins) float64: the sum of the losses and the number of samples in each bin of t."""
    place_B = (t_B * NUM_TIMESTEP_BINS).long().clamp(max=NUM_TIMESTEP_BINS - 1)
    sums = torch.zeros(2, NUM_TIMESTEP_BINS, dtype=torch.float64, device=t_B.device)
    sums[0].index_add_(0, place_B, per_sample_B.double())
    sums[1].index_add_(0, place_B, torch.ones_like(per_sample_B, dtype=torch.float64))
    return sums


def draw_loss_curve(losses: Sequence[float], path: Path) -> None:
    """Loss per step and its running mean over a twentieth of the steps."""
    # Not pyplot: it keeps global state and picks a window system.
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = range(1, len(losses) + 1)
    axes.plot(steps, losses, linewidth=0.7, alpha=0.5, label="loss of one step")
    window = max(1, len(losses) // 20)
    means = [sum(losses[max(0, i - window) : i]) / min(i, window) for i in steps]
    axes.plot(steps, means, linewidth=1.8, label=f"mean of {window} steps")
    axes.set(xlabel="optimizer step", ylabel="velocity loss", title=path.parent.name)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
