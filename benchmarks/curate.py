"""What the data engine costs beside the least that the job can cost, and beside NeMo Curator and Data-Juicer.

    python -m benchmarks.curate --film demo/sources/samples/big_buck_bunny.mp4 --seconds 120 \\
        --nemo-python NEMO/bin/python --data-juicer-python DJ/bin/python --out benchmarks/results/curate.md

All sides get the same folder: the film, a still, a black video, a piece of the film twice, and two films that are edited
from photographs so that their cuts are known. Start-up is the wall time over the black video alone. The engine runs its recipe
`demo`, and once more with the operations that the others have as well: cuts, flow, encoding with the same settings, and
packing. The floor is one process that knows the spans beforehand: one decode with flow, then encoding the survivors. CPU
seconds are those of the whole tree of processes (Linux only). `benchmarks/peers/README.md` says how to install the peers.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.process_tree import Process, total_cpu_s, tree_of
from data_engine.caption_config import CaptionConfig
from data_engine.config import DuplicateConfig, FilterConfig, ProbeConfig, ScoreConfig, ShardConfig
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
from tests.data_engine.truth_set import Film, Tally, films_from_photographs, judge_clips

# As small as NeMo Curator's motion filter takes clips.
CONFIG = demo().model_copy(update={"shards": ShardConfig(short_side_px=256, max_clips=32)})
ENGINES = {
    "demo": CONFIG,
    "same operations": CONFIG.model_copy(
        update={
            "scores": ScoreConfig(frame_scorers=()),
            "captions": CaptionConfig(captioners=()),
            "duplicates": DuplicateConfig(max_similarity=None),
            "filters": FilterConfig(max_brisque=None, max_text_area=None),
        }
    ),
}
_STILL_AT_S = 30.0
_PIECE_S = 10.0
_NUM_FILMS = 2


@dataclass(frozen=True)
class Cost:
    cpu_s: float
    wall_s: float
    peak_mb: float


def watched(command: list[str]) -> Cost:
    """The cost of a command with all that it starts, looked at four times a second."""
    start_s = time.monotonic()
    # Where Python may not keep its bytecode, each process would compile all that it imports.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(command, env=environment)
    seen: dict[int, Process] = {}
    peak_mb = 0.0
    while process.poll() is None:
        now = tree_of(process.pid)
        # Orphans keep the parent that they had.
        seen |= {p: replace(q, parent=seen[p].parent) if p in seen else q for p, q in now.items()}
        peak_mb = max(peak_mb, sum(p.resident_mb for p in now.values()))
        time.sleep(0.25)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return Cost(total_cpu_s(process.pid, seen), time.monotonic() - start_s, peak_mb)


@dataclass(frozen=True)
class Clip:
    source: str
    start_s: float
    end_s: float
    is_kept: bool


def run_floor(sources: Path, dataset: Path, out: Path) -> None:
    """Decode and measure each source once, then encode the clips that the engine kept."""
    cv2.setNumThreads(1)
    clips = [clip for clip in load_clips(DatasetPaths(dataset)) if clip.status is ClipStatus.KEPT]
    for file in sorted(sources.glob("*.mp4")):
        _measure_flow(file)
        for clip in clips:
            if clip.source_uri == file.name:
                mp4 = encode_clip(clip, str(file), CONFIG.shards, num_threads=1)
                (out / f"{clip.clip_id}.mp4").write_bytes(mp4)


def _measure_flow(file: Path) -> None:
    source = probe(local_source(file), ProbeConfig())
    meter = MotionMeter()
    size = fit_long_side(source.height_px, source.width_px, CONFIG.decode.analysis_long_side_px)
    before = None
    next_s = 0.0
    with open_video(str(file), num_threads=1) as (container, stream):
        for frame in decode_frames(container, stream):
            if before is not None and frame.time - before[1] >= 0.1:
                gray = cv2.cvtColor(upright_rgb(frame, *size, 0), cv2.COLOR_RGB2GRAY)
                meter.measure(before[0], gray.astype(np.uint8), frame.time - before[1])
                before = None
            if frame.time >= next_s:
                gray = cv2.cvtColor(upright_rgb(frame, *size, 0), cv2.COLOR_RGB2GRAY)
                before = gray.astype(np.uint8), frame.time
                next_s = frame.time + 1 / CONFIG.decode.frames_per_s


def excerpt(film: Path, seconds: float, out: Path) -> None:
    """The first seconds of a film by stream copy."""
    with av.open(str(film)) as given, av.open(str(out), "w") as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        for packet in given.demux(stream):
            assert stream.time_base is not None
            if packet.pts is None or packet.pts * stream.time_base >= seconds:
                continue
            packet.stream = copy
            made.mux(packet)


def plant(film: Path, folder: Path) -> None:
    """What no data set should hold: a still, four black seconds, and the same piece of film twice."""
    with open_video(str(film), num_threads=1) as (container, stream):
        still = next(f for f in decode_frames(container, stream) if f.time >= _STILL_AT_S)
        image = upright_rgb(still, stream.height, stream.width, 0)
    _write_repeated(image, folder / "still.mp4")
    _write_repeated(np.zeros_like(image), folder / "black.mp4")
    excerpt(film, _PIECE_S, folder / "piece.mp4")
    shutil.copyfile(folder / "piece.mp4", folder / "piece_again.mp4")


def _write_repeated(image_HWC: NDArray[np.uint8], out: Path) -> None:
    with av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width = image_HWC.shape[:2]
        stream.pix_fmt = "yuv420p"
        for _ in range(4 * 24):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image_HWC)))
        container.mux(stream.encode())


@dataclass(frozen=True)
class Outcome:
    """What a side made of the folder: how many clips, seconds kept, and which planted files it kept."""

    num_clips: int
    num_kept: int
    kept_s: float
    bad_kept: str
    cut_f1: float
    """Of the hard cuts of the films whose cuts are known, at one frame of tolerance."""
    shots_lost: int
    """Of the shots of these films, those of which no clip shows the half, kept or not."""

    @classmethod
    def of(cls, clips: Sequence[Clip], films: Sequence[Film]) -> "Outcome":
        kept = [clip for clip in clips if clip.is_kept]
        names = {clip.source for clip in kept}
        bad = [name for name in ("still.mp4", "black.mp4") if name in names]
        if {"piece.mp4", "piece_again.mp4"} <= names:
            bad.append("the copy")
        cuts, num_lost = Tally(), 0
        for film in films:
            own = [clip for clip in clips if clip.source == f"{film.name}.mp4"]
            cuts.add(judge_clips(film, own).hard)
            num_lost += sum(not _is_shown(shot, film, own) for shot in set(film.shot_of) - {None})
        return cls(
            num_clips=len(clips),
            num_kept=len(kept),
            kept_s=sum(clip.end_s - clip.start_s for clip in kept),
            bad_kept=", ".join(bad) or "none",
            cut_f1=cuts.f1,
            shots_lost=num_lost,
        )


def _is_shown(shot: int | None, film: Film, clips: Sequence[Clip]) -> bool:
    frames = [time_s for time_s, s in zip(film.times_s, film.shot_of, strict=True) if s == shot]
    shown = (sum(c.start_s - 1e-4 <= t < c.end_s - 1e-4 for t in frames) for c in clips)
    return max(shown, default=0) >= len(frames) / 2


def clips_of_engine(dataset: Path) -> list[Clip]:
    return [
        Clip(clip.source_uri, clip.start_s, clip.end_s, clip.status is ClipStatus.KEPT)
        for clip in load_clips(DatasetPaths(dataset))
    ]


def clips_of_peer(out: Path) -> list[Clip]:
    rows = (json.loads(line) for line in (out / "clips.jsonl").read_text().splitlines())
    return [Clip(r["source"], r["start_s"], r["end_s"], r["kept"]) for r in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--film", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--nemo-python", type=Path, help="of an environment with NeMo Curator")
    parser.add_argument("--data-juicer-python", type=Path, help="of one with Data-Juicer")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs=3, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        side, given, folder = arguments.only
        if str(side) == "floor":
            run_floor(given, folder, folder.parent)
            return
        with ray_session():
            curate(ENGINES[str(side)], str(given), folder, lambda _: None)
        return
    home = Path(tempfile.mkdtemp())
    sources, alone = home / "sources", home / "alone"
    for folder in (sources, alone):
        folder.mkdir()
    excerpt(arguments.film, arguments.seconds, sources / "film.mp4")
    plant(sources / "film.mp4", sources)
    shutil.copyfile(sources / "black.mp4", alone / "black.mp4")
    films = films_from_photographs(_NUM_FILMS, seed=2)
    for film in films:
        film.write(sources)
    files = list(sources.glob("*.mp4"))
    total_s = sum(probe(local_source(file), ProbeConfig()).duration_s for file in files)
    chosen = sides(arguments)
    # All of them first: a side that cannot run is found before hours of the others.
    startups = {
        name: watched(command(alone, home / f"{name} alone"))
        for name, (command, _) in chosen.items()
    }
    rows: list[tuple[str, Side]] = []
    for name, (command, read) in chosen.items():
        cost = watched(command(sources, home / name))
        outcome = Outcome.of(read(home / name), films)
        rows.append((name, Side(cost, startups[name].wall_s, outcome)))
        sys.stderr.write(f"{name}: {cost.cpu_s / total_s:.3f} CPU-seconds a second of video\n")
    same = home / "this engine, same operations"
    this = [sys.executable, "-m", "benchmarks.curate", "--film", str(arguments.film), "--only"]
    floor = watched([*this, "floor", str(sources), str(same)])
    rows.append(("floor", Side(floor, 0.0, Outcome.of(clips_of_engine(same), films))))
    text = table(rows, total_s, len(files), arguments.seconds)
    text += stages(home / "this engine, demo")
    if arguments.out:
        arguments.out.write_text(text)
    sys.stdout.write(text)
    shutil.rmtree(home)


@dataclass(frozen=True)
class Side:
    cost: Cost
    startup_s: float
    outcome: Outcome


MakeCommand = Callable[[Path, Path], list[str]]
"""From a folder of sources and one for the outcome."""


def sides(
    arguments: argparse.Namespace,
) -> dict[str, tuple[MakeCommand, Callable[[Path], list[Clip]]]]:
    """Each side with how to run it, and how to read what it made."""

    def engine(name: str, sources: Path, out: Path) -> list[str]:
        this = [sys.executable, "-m", "benchmarks.curate", "--film", str(arguments.film), "--only"]
        return [*this, name, str(sources), str(out)]

    def peer(python: Path, script: str, sources: Path, out: Path) -> list[str]:
        path = Path(__file__).parent / "peers" / script
        height = ["--height", str(CONFIG.shards.short_side_px)]
        return [str(python), str(path), "--sources", str(sources), "--out", str(out), *height]

    found: dict[str, tuple[MakeCommand, Callable[[Path], list[Clip]]]] = {
        f"this engine, {name}": (partial(engine, name), clips_of_engine) for name in ENGINES
    }
    for name, script, python in (
        ("NeMo Curator 1.4", "with_nemo_curator.py", arguments.nemo_python),
        ("Data-Juicer 1.6", "with_data_juicer.py", arguments.data_juicer_python),
    ):
        if python is not None:
            found[name] = partial(peer, python, script), clips_of_peer
    return found


def table(rows: Sequence[tuple[str, Side]], total_s: float, num_files: int, film_s: float) -> str:
    """One row for each side; ratios are to the engine with the same operations."""
    same = next(side.cost for name, side in rows if name.endswith("same operations"))
    lines = [
        "# Curation beside the least that it can cost, and beside the peers",
        "",
        f"Command: see `benchmarks/curate.py`, `--seconds {film_s:g}`. {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}. {total_s:.0f} s of video in {num_files} files.",
        "",
        "| side | CPU-seconds a second of video | times ours | wall (s) | start-up (s) | peak memory (MB, resident) "
        "| clips | kept | kept (s) | cut F1 | shots lost | bad kept |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, side in rows:
        cost, outcome = side.cost, side.outcome
        startup = f"{side.startup_s:.0f}" if side.startup_s else "-"
        lines.append(
            f"| {name} | {cost.cpu_s / total_s:.3f} | {cost.cpu_s / same.cpu_s:.2f} | {cost.wall_s:.0f} | {startup} "
            f"| {cost.peak_mb:.0f} | {outcome.num_clips} | {outcome.num_kept} | {outcome.kept_s:.1f} "
            f"| {outcome.cut_f1:.3f} | {outcome.shots_lost} | {outcome.bad_kept} |"
        )
    return "\n".join(lines) + "\n"


def stages(dataset: Path) -> str:
    lines = ["", "| stage of the engine, recipe `demo` | done | wall (s) |", "|---|---:|---:|"]
    lines += [
        f"| {stage.name} | {stage.amount:.0f} {stage.unit} | {stage.seconds:.1f} |"
        for stage in read_throughput(DatasetPaths(dataset))
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
