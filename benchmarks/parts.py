"""The decode pass of one film undivided and in parts, by one process and by two.

    python -m benchmarks.parts --film demo/sources/samples/big_buck_bunny.mp4 --out benchmarks/results/parts.md

Every side writes the same two tables, which is checked.
"""

import argparse
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.curate import excerpt
from data_engine.config import DataEngineConfig, DecodeConfig, ProbeConfig
from data_engine.parts import num_parts
from data_engine.probe import probe
from data_engine.schema import SourceVideo
from data_engine.sources.listing import local_source
from data_engine.tables import DatasetPaths
from data_engine.workers import REST, CutSource, part_key


@dataclass(frozen=True, slots=True)
class Side:
    name: str
    part_s: float | None
    num_processes: int


def cut(part: int, source: SourceVideo, part_s: float | None, root: Path) -> None:
    config = DataEngineConfig(decode=DecodeConfig(part_s=part_s))
    worker = CutSource(config, str(root), {source.source_id: "benchmark"}, lambda _key, _done: None)
    key = part_key(source, part)
    row = {"key": key, "source_id": source.source_id, "part": part, "source": source.to_json()}
    done = worker(row)
    if done["reason"] is not None:
        raise SystemExit(f"{key}: {done['detail']}")


def run(side: Side, source: SourceVideo, root: Path) -> tuple[float, float, list[bytes]]:
    """Wall-clock seconds, CPU-seconds, and the tables. Starting the processes and imports do not count."""
    count = num_parts(source, side.part_s)
    parts = list(range(count)) if count > 1 else [REST]
    work: Callable[[int], None] = partial(cut, source=source, part_s=side.part_s, root=root)
    # Not forked: codecs of this process may hold locks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(side.num_processes, mp_context=context) as pool:
        # Long enough that each process takes one.
        before_s = sum(pool.map(_cpu_s, range(side.num_processes)))
        start = time.perf_counter()
        list(pool.map(work, parts))
        wall_s = time.perf_counter() - start
        cpu_s = sum(pool.map(_cpu_s, range(side.num_processes))) - before_s
    paths = DatasetPaths(root)
    source_id = source.source_id
    return wall_s, cpu_s, [p.read_bytes() for p in (paths.cuts(source_id), paths.frames(source_id))]


def _cpu_s(_: int) -> float:
    time.sleep(1.0)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--film", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--part-s", type=float, default=30.0)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    sides = (
        Side("undivided, 1 process", None, 1),
        Side("in parts, 1 process", arguments.part_s, 1),
        Side("in parts, 2 processes", arguments.part_s, 2),
    )
    best: dict[Side, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        excerpt(arguments.film, arguments.seconds, film)
        source = probe(local_source(film), ProbeConfig())
        expected: list[bytes] | None = None
        # In turn, so that what else the machine does falls on all sides.
        for number in range(arguments.repeats):
            for side in sides:
                wall_s, cpu_s, tables = run(side, source, Path(folder) / f"{number} {side.name}")
                expected = expected or tables
                assert tables == expected, "parts must give what the whole gives"
                best[side] = min(best.get(side, (wall_s, cpu_s)), (wall_s, cpu_s))
    undivided_s = best[sides[0]][0]
    lines = [
        "# One film, undivided and in parts",
        "",
        f"Command: `python -m benchmarks.parts {' '.join(sys.argv[1:])}`. {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}. {source.duration_s:.0f} s of video in parts of {arguments.part_s:g} s, best "
        f"of {arguments.repeats}; the tables of all sides are byte-identical.",
        "",
        "| side | wall (s) | CPU-seconds | speed, undivided = 1 |",
        "|---|---:|---:|---:|",
        *(
            f"| {side.name} | {wall_s:.1f} | {cpu_s:.1f} | {undivided_s / wall_s:.2f} |"
            for side, (wall_s, cpu_s) in best.items()
        ),
        "",
    ]
    text = "\n".join(lines)
    print(text)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
