"""What the data engine costs beside the least that the job can cost: one decode, flow, and encoding the survivors.

    python -m benchmarks.curate --film demo/sources/samples/big_buck_bunny.mp4 --seconds 120 \\
        --out benchmarks/results/curate.md

Both sides read the same film, measure flow at the same size and rate, and encode the same spans with the same settings.
The engine runs in a process of its own with a Ray of its own; CPU seconds are those of its whole tree of processes
(Linux only). The floor is one process that knows the spans beforehand.
"""

import argparse
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from data_engine.config import ProbeConfig
from data_engine.container import decode_frames, fit_long_side, open_video, upright_rgb
from data_engine.cutting import encode_clip
from data_engine.pipeline import curate
from data_engine.probe import probe
from data_engine.recipes import demo
from data_engine.schema import ClipStatus
from data_engine.scores.motion import MotionMeter
from data_engine.sources.listing import local_source
from data_engine.tables import DatasetPaths, load_clips
from data_engine.throughput import read_throughput
from orchestration.ray_session import ray_session

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
CONFIG = demo()


@dataclass(frozen=True)
class Cost:
    cpu_s: float
    wall_s: float
    peak_mb: float


def tree_of(root: int) -> dict[int, tuple[float, float]]:
    """CPU seconds and resident MB of a process and all its descendants, by pid."""
    parents: dict[int, int] = {}
    usage: dict[int, tuple[float, float]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        pid = int(entry.name)
        parents[pid] = int(fields[1])
        ticks = int(fields[11]) + int(fields[12])
        resident_mb = int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        usage[pid] = ticks / _TICKS_A_SECOND, resident_mb
    inside = {root}
    while more := {pid for pid, parent in parents.items() if parent in inside} - inside:
        inside |= more
    return {pid: usage[pid] for pid in inside if pid in usage}


def watched(command: list[str]) -> Cost:
    """The cost of a command with all that it starts, looked at four times a second."""
    start_s = time.monotonic()
    process = subprocess.Popen(command)
    cpu_s: dict[int, float] = {}
    peak_mb = 0.0
    while process.poll() is None:
        now = tree_of(process.pid)
        cpu_s |= {pid: seconds for pid, (seconds, _) in now.items()}
        peak_mb = max(peak_mb, sum(resident_mb for _, resident_mb in now.values()))
        time.sleep(0.25)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return Cost(sum(cpu_s.values()), time.monotonic() - start_s, peak_mb)


def run_floor(film: Path, dataset: Path, out: Path) -> None:
    """Decode and measure once, then encode the clips that the engine kept."""
    cv2.setNumThreads(1)
    source = probe(local_source(film), ProbeConfig())
    meter = MotionMeter()
    size = fit_long_side(source.height_px, source.width_px, CONFIG.decode.analysis_long_side_px)
    before = None
    next_s = 0.0
    with open_video(str(film), num_threads=1) as (container, stream):
        for frame in decode_frames(container, stream):
            if before is not None and frame.time - before[1] >= 0.1:
                gray = cv2.cvtColor(upright_rgb(frame, *size, 0), cv2.COLOR_RGB2GRAY)
                meter.measure(before[0], gray.astype(np.uint8), frame.time - before[1])
                before = None
            if frame.time >= next_s:
                gray = cv2.cvtColor(upright_rgb(frame, *size, 0), cv2.COLOR_RGB2GRAY)
                before = gray.astype(np.uint8), frame.time
                next_s = frame.time + 1 / CONFIG.decode.frames_per_s
    for clip in load_clips(DatasetPaths(dataset)):
        if clip.status is ClipStatus.KEPT:
            mp4 = encode_clip(clip, str(film), CONFIG.shards, num_threads=1)
            (out / f"{clip.clip_id}.mp4").write_bytes(mp4)


def excerpt(film: Path, seconds: float, out: Path) -> None:
    """The first seconds of a film by stream copy."""
    with av.open(str(film)) as given, av.open(str(out), "w") as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        for packet in given.demux(stream):
            if packet.pts is None or packet.pts * stream.time_base >= seconds:
                continue
            packet.stream = copy
            made.mux(packet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--film", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs=3, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        side, given, folder = arguments.only
        if str(side) == "engine":
            with ray_session():
                curate(CONFIG, str(given), folder, lambda _: None)
        else:
            run_floor(next(given.glob("*.mp4")), folder, folder.parent)
        return
    home = Path(tempfile.mkdtemp())
    sources, dataset = home / "sources", home / "dataset"
    sources.mkdir()
    excerpt(arguments.film, arguments.seconds, sources / "film.mp4")
    this = [sys.executable, "-m", "benchmarks.curate", "--film", str(arguments.film), "--only"]
    engine = watched([*this, "engine", str(sources), str(dataset)])
    floor = watched([*this, "floor", str(sources), str(dataset)])
    clips = load_clips(DatasetPaths(dataset))
    kept = [clip for clip in clips if clip.status is ClipStatus.KEPT]
    kept_s = sum(clip.duration_s for clip in kept)
    own_cpu_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    lines = [
        "# Curation beside the least that it can cost",
        "",
        f"Command: `python -m benchmarks.curate --film ... --seconds {arguments.seconds:g}`. "
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}. Recipe `demo`.",
        "",
        f"{arguments.seconds:g} s of film, {len(clips)} clips cut, {len(kept)} kept ({kept_s:.1f} s).",
        "",
        "| side | CPU-seconds a second of video | wall (s) | peak memory (MB, resident) |",
        "|---|---:|---:|---:|",
    ]
    for name, cost in (("this engine, all of it", engine), ("floor", floor)):
        share = cost.cpu_s / arguments.seconds
        lines.append(f"| {name} | {share:.3f} | {cost.wall_s:.0f} | {cost.peak_mb:.0f} |")
    lines += [
        "",
        f"Ratio in CPU-seconds: {engine.cpu_s / floor.cpu_s:.2f}. The engine also finds shots, reads text, judges quality, "
        "embeds, deduplicates, captions, packs and reports, and starts Ray and a pool of workers for each stage; the floor "
        "imports what it needs.",
        "",
        "| stage of the engine | done | wall (s) |",
        "|---|---:|---:|",
    ]
    lines += [
        f"| {stage.name} | {stage.amount:.0f} {stage.unit} | {stage.seconds:.1f} |"
        for stage in read_throughput(DatasetPaths(dataset))
    ]
    lines += [
        "",
        f"(The watcher itself took {own_cpu_s:.1f} CPU-seconds, which are in neither row.)",
    ]
    text = "\n".join(lines) + "\n"
    if arguments.out:
        arguments.out.write_text(text)
    sys.stdout.write(text)
    shutil.rmtree(home)


if __name__ == "__main__":
    main()
