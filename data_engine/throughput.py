"""How long each stage took, kept beside the tables of a data set."""

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from data_engine.tables import DatasetPaths, write_text


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTime:
    """What a stage did when it last had work to do, and in how many seconds, with the start of its workers."""

    name: str
    amount: float
    unit: str
    seconds: float


@contextmanager
def stage_clock(paths: DatasetPaths, name: str, amount: float, unit: str) -> Generator[None]:
    """Notes how long the block takes, if it has anything to do and comes to its end."""
    start_s = time.monotonic()
    yield
    if amount:
        seconds = round(time.monotonic() - start_s, 3)
        done = StageTime(name=name, amount=round(amount, 3), unit=unit, seconds=seconds)
        others = [stage for stage in read_throughput(paths) if stage.name != name]
        text = json.dumps([asdict(stage) for stage in [*others, done]], indent=1)
        write_text(paths.throughput, text + "\n")


def read_throughput(paths: DatasetPaths) -> list[StageTime]:
    """The stages, the one that worked last at the end; none if nothing was done yet."""
    if not paths.throughput.exists():
        return []
    return [StageTime(**stage) for stage in json.loads(paths.throughput.read_bytes())]
