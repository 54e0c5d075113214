"""Seconds from the kill -9 of a worker to the next step, on Ray Train workers of this machine.

    python -m benchmarks.recovery --workers 2 --repeats 3 --out benchmarks/results/recovery.md

A stage trains on small clips. The process of the first worker is killed, then that of another one. Clocks run from the
kill to the next line of metrics.jsonl: what is done again since the last checkpoint counts.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import ray

from tests.training.builders import tiny_config, tiny_stage, write_dataset
from training.checkpoint import latest_step
from training.launch import fit
from training.run_directory import RunDirectory
from training.telemetry import read_metrics

CHECKPOINT_EVERY_STEPS = 10


def main() -> None:
    arguments = _arguments()
    ray.init(address="local", num_cpus=arguments.workers, include_dashboard=False)
    seconds: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_dataset(Path(folder) / "data", [24] * 8)
        for number in range(arguments.repeats):
            seconds.append(_recovery_s(arguments.workers, dataset, Path(folder) / f"run-{number}"))
            print("{:.1f} s, {:.1f} s".format(*seconds[-1]), flush=True)
    lines = [
        "# From the kill of a worker to the next step",
        "",
        f"Command: `python -m benchmarks.recovery {' '.join(sys.argv[1:])}`. {platform.machine()}, {os.cpu_count()} "
        f"cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, Ray {ray.__version__}.",
        "",
        f"{arguments.workers} CPU workers, FSDP2, a checkpoint every {CHECKPOINT_EVERY_STEPS} steps; kill -9; target 60 s.",
        "",
        "| killed | seconds | median |",
        "|---|---|---:|",
        *(
            f"| {who} | {', '.join(f'{value:.1f}' for value in values)} | {statistics.median(values):.1f} |"
            for who, values in zip(
                ("the first worker", "another worker"), zip(*seconds, strict=True), strict=True
            )
        ),
        "",
    ]
    text = "\n".join(lines)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text)


def _recovery_s(num_workers: int, dataset: Path, path: Path) -> tuple[float, float]:
    """Of one run, of which first the first worker and later another one is killed between checkpoints."""
    stage = tiny_stage(
        "stiv", num_steps=120, batch_size=4, checkpoint_every_steps=CHECKPOINT_EVERY_STEPS
    )
    config = tiny_config(stages={"stiv": stage}, num_workers=num_workers, sharding="full")
    waited: list[float] = []

    def kill_both() -> None:
        waited.append(_kill_at(3 * CHECKPOINT_EVERY_STEPS, path, is_first=True))
        waited.append(_kill_at(7 * CHECKPOINT_EVERY_STEPS, path, is_first=False))

    killer = threading.Thread(target=kill_both, daemon=True)
    killer.start()
    fit(config, [dataset], path)
    killer.join()
    first, other = waited
    return first, other


def _kill_at(step: int, path: Path, *, is_first: bool) -> float:
    """Kill a worker when the run has come to the step; the seconds until it takes a new one."""
    metrics = RunDirectory(path).stage("stiv").metrics
    while _last_step(metrics) < step:
        time.sleep(0.02)
    before = metrics.stat()
    os.kill(_worker(path, is_first=is_first), signal.SIGKILL)
    killed_s = time.perf_counter()
    # The restarted stage puts a file of its own in its place, cut back to the checkpoint, and adds to it.
    while metrics.stat().st_ino == before.st_ino or _last_step(metrics) <= _resumed_at(path):
        time.sleep(0.05)
    return time.perf_counter() - killed_s


def _worker(path: Path, *, is_first: bool) -> int:
    """The process of the worker that writes the run, or of another one."""
    first = json.loads((path / "trainer.lock").read_text())["pid"]
    if is_first:
        return first
    workers = [
        process.pid
        for process in psutil.Process().children(recursive=True)
        if "RayTrainWorker" in " ".join(process.cmdline())
    ]
    return next(pid for pid in workers if pid != first)


def _last_step(metrics: Path) -> int:
    lines = read_metrics(metrics) if metrics.exists() else []
    return lines[-1]["step"] if lines else 0


def _resumed_at(path: Path) -> int:
    return latest_step(RunDirectory(path).stage("stiv").checkpoints) or 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
