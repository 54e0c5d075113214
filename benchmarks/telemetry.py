"""What telemetry costs of a step: how long training waits for it, and the processor time of the threads that send it.

    python -m benchmarks.telemetry --steps 300 --trackers wandb mlflow --out benchmarks/results/telemetry.md

Processor time is what telemetry can take from a step at most, where every core is busy with training; the first steps
are left out, because in them the sinks are opened. Shares are of steps of the seconds given by --step-s.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

from training.run_directory import StageDirectory
from training.sinks import TRACKERS
from training.streaming.loader import resident_mb
from training.telemetry import TASKS, StepMetrics, Telemetry

TARGET = 0.005
NUM_LEFT_OUT = 50


def main() -> None:
    arguments = _arguments()
    rows = [
        _row(trackers, arguments.steps, arguments.step_s)
        for trackers in ([], *([name] for name in arguments.trackers))
    ]
    text = "\n".join(
        [
            "# What telemetry costs of a step",
            "",
            f"Command: `python -m benchmarks.telemetry {' '.join(sys.argv[1:])}`. {platform.machine()}, {os.cpu_count()} "
            f"cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}.",
            "",
            f"Medians over {arguments.steps} steps. Target: below {TARGET:.1%} of a step.",
            "",
            f"| besides metrics.jsonl | training waits, ms | processor time in all, ms | of a step of {arguments.step_s:g} s |",
            "|---|---:|---:|---:|",
            *rows,
            "",
        ]
    )
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text)


def _row(trackers: list[str], num_steps: int, step_s: float) -> str:
    waited_ms: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        directory = StageDirectory(Path(folder) / "stage")
        sinks = [TRACKERS[name](directory.path / name, "benchmark", {}) for name in trackers]
        telemetry = Telemetry(directory, 0, sinks)
        begun_s = 0.0
        for step in range(1, num_steps + NUM_LEFT_OUT + 1):
            if step == NUM_LEFT_OUT + 1:
                time.sleep(5.0)
                begun_s = _processor_s(telemetry)
            started_s = time.perf_counter()
            telemetry.log(_metrics(step))
            waited_ms.append((time.perf_counter() - started_s) * 1e3)
            # As in training, the threads are done with a step before the next one ends.
            time.sleep(0.02)
        time.sleep(1.0)
        sent_ms = (_processor_s(telemetry) - begun_s) * 1e3 / num_steps
        telemetry.close()
    median_ms = statistics.median(waited_ms[NUM_LEFT_OUT:])
    names = ", ".join(["TensorBoard", *trackers])
    whole_ms = median_ms + sent_ms
    return f"| {names} | {median_ms:.2f} | {whole_ms:.2f} | {whole_ms / 1e3 / step_s:.2%} |"


def _processor_s(telemetry: Telemetry) -> float:
    return sum(sending.seconds for sending in telemetry.sendings)


def _metrics(step: int) -> StepMetrics:
    """Like those of a step of a stage that gives frames: no number is missing."""
    return StepMetrics(
        step=step,
        loss=1.0 / step,
        learning_rate=2e-4,
        grad_norm=0.5,
        tokens_per_s=1e5,
        tokens_processed_per_s=6e4,
        tflops_per_s=400.0,
        mfu=0.4,
        data_wait_s=0.001,
        data_wait_share=0.001,
        num_skipped=0,
        peak_memory_mb=resident_mb(),
        peak_gpu_memory_mb=6e4,
        step_s=1.0,
        loss_by_timestep=(1.0, 0.9, 0.8, 0.7),
        loss_by_task=dict.fromkeys(TASKS, 1.0),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--step-s", type=float, default=1.0)
    parser.add_argument("--trackers", nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
