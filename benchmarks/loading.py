"""From shards to batches beside webdataset, MosaicML Streaming, LitData and Ray Data.

    python -m benchmarks.loading --clips DATASET --peers ENVIRONMENTS --home SCRATCH --out benchmarks/results/loading.md

ENVIRONMENTS holds a folder for each peer (`benchmarks/peers/README.md`); one that is not there is left out and named. All
sides hand out the same numbers, which is checked by a hash of every sample. Each runs in a process of its own, bound to one
core, with its data in the page cache; CPU seconds are those of all its processes. Rounds go from side to side, so that
another load of the machine falls on all of them. SCRATCH is kept and used again.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks import loading_ours
from benchmarks.loading_data import repeat_latents, write_latents
from benchmarks.peers.loading import RESUMES, SIDES, measure

_NUM_SAMPLES, _SAMPLES_PER_SHARD, _TIMES = 2048, 256, 489
_MILLION = _NUM_SAMPLES * _TIMES
_RESUME_AT = 900_000
_OURS = "this project"
_PARTS = ("latents", "clips", "resume", "decoders")
_PACKAGES = {
    "webdataset": "webdataset",
    "streaming": "mosaicml-streaming",
    "litdata": "litdata",
    "ray": "ray",
}


@dataclass
class Results:
    """Samples per CPU-second of each round, by side; and whether the numbers were those of the others."""

    rates: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    agrees: dict[str, bool] = field(default_factory=dict[str, bool])
    failed: dict[str, str] = field(default_factory=dict[str, str])


def run_ours(task: str, folder: Path, out: Path, seconds: float) -> None:
    """In a process of its own."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    if task == "resume":
        found = loading_ours.resume(folder, _RESUME_AT)
    elif task == "decoders":
        found = {"rows": loading_ours.decoders(folder)}
    else:
        found = measure(loading_ours.one_epoch(folder, task), seconds)
    out.write_text(json.dumps(found))


class Runs:
    """Sides in processes of their own."""

    def __init__(self, peers: Path, home: Path, seconds: float) -> None:
        self._peers, self._home, self._seconds = peers, home, seconds

    def python(self, side: str) -> Path:
        return self._peers / side.split()[0] / "bin" / "python"

    def run(self, side: str, task: str, folder: Path, plan: Path | None = None) -> dict[str, Any]:
        """What a side writes.

        Raises:
            CalledProcessError: it failed.
        """
        out = self._home / "out.json"
        out.unlink(missing_ok=True)
        last = ["--seconds", str(self._seconds)]
        if side == _OURS:
            command = [sys.executable, "-m", "benchmarks.loading", "--only", task, folder, out]
        else:
            command = [self.python(side), "-m", "benchmarks.peers.loading", side, task, folder, out]
            last += [] if plan is None else ["--plan", str(plan)]
        quiet = {**os.environ, "PYTHONWARNINGS": "ignore", "TOKENIZERS_PARALLELISM": "false"}
        subprocess.run(
            [*map(str, command), *last], check=True, env=quiet, capture_output=True, text=True
        )
        return json.loads(out.read_text())

    def compare(
        self, sides: Sequence[str], task: str, folders: tuple[Path, Path], rounds: int
    ) -> Results:
        """`folders`: the data set, and its tars."""
        results = Results()
        plan = self._home / "frames.json"
        if task == "clips":
            plan.write_text(json.dumps(loading_ours.frames_drawn(folders[0])))
        truth: dict[str, str] = {}
        for _ in range(rounds):
            for side in (s for s in sides if s not in results.failed):
                folder = folders[0] if side == _OURS else folders[1]
                try:
                    found = self.run(side, task, folder, plan if task == "clips" else None)
                except subprocess.CalledProcessError as error:
                    results.failed[side] = str(error.stderr).strip().splitlines()[-1]
                    continue
                truth = truth or found["digests"]
                results.agrees[side] = found["digests"] == truth
                rate = found["samples"] / found["cpu_s"]
                results.rates.setdefault(side, []).append(rate)
                sys.stderr.write(f"{task} {side}: {rate:.0f} a CPU-second\n")
        return results


def rate_table(results: Results) -> list[str]:
    """A row for each side; ratios are medians over medians."""
    ours = statistics.median(results.rates[_OURS])
    lines = [
        "| side | samples per CPU-second, median | least to most | ours is so many times as fast | same numbers |",
        "|---|---:|---:|---:|---|",
    ]
    for side, rates in results.rates.items():
        middle = statistics.median(rates)
        lines.append(
            f"| {side} | {middle:.1f} | {min(rates):.1f} to {max(rates):.1f} | {ours / middle:.2f} "
            f"| {'yes' if results.agrees[side] else 'NO'} |"
        )
    lines += [f"| {side} | failed: {why} | | | |" for side, why in results.failed.items()]
    return lines


def resume_table(runs: Runs, folder: Path, sides: Sequence[str], rounds: int) -> list[str]:
    lines = ["| side | seconds, median | least to most | bytes of state | how |"]
    lines += ["|---|---:|---:|---:|---|"]
    for side in [_OURS, *(s for s in sides if s in RESUMES)]:
        try:
            found = [runs.run(side, "resume", folder) for _ in range(rounds)]
        except subprocess.CalledProcessError as error:
            lines.append(f"| {side} | failed: {str(error.stderr).strip().splitlines()[-1]} | | | |")
            continue
        seconds = [one["seconds"] for one in found]
        lines.append(
            f"| {side} | {statistics.median(seconds):.2f} | {min(seconds):.2f} to {max(seconds):.2f} "
            f"| {found[0]['state_bytes'] or 'none'} | {found[0]['note']} |"
        )
    return [*lines, "| ray | cannot | | none | starts again at the first sample |"]


def decoder_table(rows: Sequence[tuple[int, int, float, float]]) -> list[str]:
    lines = ["| wanted frames | stride | decord (CPU-ms a clip) | PyAV (CPU-ms a clip) | faster |"]
    lines += ["|---:|---:|---:|---:|---|"]
    lines += [
        f"| {count} | {stride} | {decord:.1f} | {pyav:.1f} | {'decord' if decord < pyav else 'PyAV'} |"
        for count, stride, decord, pyav in rows
    ]
    return lines


def versions(runs: Runs, sides: Sequence[str]) -> str:
    found = [f"torch {version('torch')}, decord {version('decord')}, PyAV {version('av')}"]
    for name in dict.fromkeys(side.split()[0] for side in sides):
        code = f"from importlib.metadata import version; print(version({_PACKAGES[name]!r}))"
        said = subprocess.run(
            [runs.python(name), "-c", code], check=True, capture_output=True, text=True
        )
        found.append(f"{_PACKAGES[name]} {said.stdout.strip()}")
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, help="a data set that `stiv curate` made")
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement, at least")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS)
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        task, folder, out = arguments.only
        run_ours(task, Path(folder), Path(out), arguments.seconds)
        return
    if None in (arguments.clips, arguments.peers, arguments.home):
        parser.error("--clips, --peers and --home are needed")
    home: Path = arguments.home
    latents, million = home / "latents", home / "million"
    if not latents.exists():
        write_latents(latents, _NUM_SAMPLES, _SAMPLES_PER_SHARD)
    if not million.exists():
        repeat_latents(latents, million, _TIMES)
    runs = Runs(arguments.peers, home, arguments.seconds)
    here = [side for side in SIDES if runs.python(side).exists()]
    tars = arguments.clips / "shards"
    rounds: int = arguments.rounds
    of_clips = [side for side in here if "to_tuple" not in side]
    parts = {
        "latents": lambda: [
            "## Cached latents",
            "",
            f"{_NUM_SAMPLES} samples of 160 KiB of latents (float16), 16 to 24 KiB of text features and a record, in batches of "
            "32. Ours draws a new random order of all samples and which frames are given; the others read in the order of "
            "their files.",
            "",
            *rate_table(runs.compare([_OURS, *here], "latents", (latents, latents), rounds)),
        ],
        "clips": lambda: [
            "## Clips",
            "",
            "8 frames of each clip, resized to cover 256x256 and cut at the centre; the same frames for all, by decord.",
            "",
            *rate_table(runs.compare([_OURS, *of_clips], "clips", (arguments.clips, tars), rounds)),
        ],
        "resume": lambda: [
            f"## First batch after a resume at {_RESUME_AT} of {_MILLION} samples",
            "",
            f"The {_NUM_SAMPLES} samples, {_TIMES} times over by links under other names, indexed as {_MILLION} samples by every "
            "side. Opening the index is part of the time, importing packages and the first building of an index are not.",
            "",
            *resume_table(runs, million, here, rounds),
        ],
        "decoders": lambda: [
            "## decord and PyAV in our own read path",
            "",
            "From a random frame on. `training/streaming/decode.py` takes decord, and PyAV where decord cannot read.",
            "",
            *decoder_table(runs.run(_OURS, "decoders", arguments.clips)["rows"]),
        ],
    }
    head = (
        f"Command: `python -m benchmarks.loading --rounds {rounds} --seconds {arguments.seconds:g} "
        f"--parts {' '.join(arguments.parts)}`. {platform.machine()}, {_processor()}, {os.cpu_count()} cores, "
        f"each side bound to one. Python {platform.python_version()}, {versions(runs, here)}. "
        f"Not installed: {', '.join(s for s in SIDES if s not in here) or 'none'}."
    )
    lines = ["# From shards to batches", "", head, ""]
    for part in arguments.parts:
        lines += [*parts[part](), ""]
    text = "\n".join(lines)
    if arguments.out:
        arguments.out.write_text(text)
    sys.stdout.write(text)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))


if __name__ == "__main__":
    main()
