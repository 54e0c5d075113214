"""Seconds from the kill -9 of a worker to the next step, on Ray Train workers of this machine.

    python -m benchmarks.recovery --workers 2 --repeats 3 --out benchmarks/results/recovery.md

A stage trains on random pictures; the process of the first worker, then that of the last one, is killed in turn. Clocks
run from the kill to the next line of metrics.jsonl: what is done again since the last checkpoint counts.
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

import ray

from tests.training.builders import tiny_config, tiny_stage, write_dataset
from training.launch import fit
from training.run_directory import RunDirectory
from training.telemetry import read_metrics

CHECKPOINT_EVERY_STEPS = 10


def main() -> None:
    arguments = _arguments()
    ray.init(address="local", num_cpus=arguments.workers, include_dashboard=False)
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_dataset(Path(folder) / "data", [24] * 8)
        for number in range(arguments.repeats):
            seconds.append(_recovery_s(arguments.workers, dataset, Path(folder) / f"run-{number}"))
            print(f"{seconds[-1]:.1f} s", flush=True)
    lines = [
        "# From the kill of a worker to the next step",
        "",
        f"Command: `python -m benchmarks.recovery {' '.join(sys.argv[1:])}`. {platform.machine()}, {os.cpu_count()} "
        f"cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, Ray {ray.__version__}.",
        "",
        f"{arguments.workers} CPU workers, FSDP2, a checkpoint every {CHECKPOINT_EVERY_STEPS} steps; kill -9 of the first "
        f"worker, {arguments.repeats} times: "
        + ", ".join(f"{value:.1f}" for value in seconds)
        + f" s, median {statistics.median(seconds):.1f} s, target 60 s.",
        "",
    ]
    text = "\n".join(lines)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text)


def _recovery_s(num_workers: int, dataset: Path, path: Path) -> float:
    """Of one run whose first worker is killed once it has made some checkpoints."""
    stage = tiny_stage(
        "stiv", num_steps=120, batch_size=4, checkpoint_every_steps=CHECKPOINT_EVERY_STEPS
    )
    config = tiny_config(stages={"stiv": stage}, num_workers=num_workers, sharding="full")
    metrics = RunDirectory(path).stage("stiv").metrics
    waited: list[float] = []

    def kill() -> None:
        while _last_step(metrics) < 3 * CHECKPOINT_EVERY_STEPS:
            time.sleep(0.02)
        process = json.loads((path / "trainer.lock").read_text())["pid"]
        os.kill(process, signal.SIGKILL)
        killed_s = time.perf_counter()
        before = metrics.stat()
        while True:
            now = metrics.stat()
            # The restarted stage puts a file of its own in its place, cut back to the checkpoint, and adds to it.
            if now.st_ino != before.st_ino and _last_step(metrics) > _resumed_at(path):
                break
            time.sleep(0.05)
        waited.append(time.perf_counter() - killed_s)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    fit(config, [dataset], path)
    killer.join()
    return waited[0]


def _last_step(metrics: Path) -> int:
    lines = read_metrics(metrics) if metrics.exists() else []
    return lines[-1]["step"] if lines else 0


def _resumed_at(path: Path) -> int:
    latest = json.loads((path / "stiv" / "checkpoints" / "latest.json").read_text())
    return int(latest["directory"].removeprefix("step-"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
