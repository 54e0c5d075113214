"""Whether scores are distributed as they were: deciles that are kept, and how far another sample lies from them."""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_engine.schema import ClipRecord

_MIN_CLIPS = 10
"""Fewer say nothing about a distribution."""
_CHANCE = 1.95
"""Two samples of one distribution are further apart than this times sqrt(1/n + 1/m) once in a thousand times
(Kolmogorov and Smirnov)."""


@dataclass(frozen=True, slots=True)
class Deciles:
    """Minimum, nine deciles and maximum of a score, and the backend that made it."""

    backend: str
    count: int
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Drift:
    """How far two samples of a score are apart."""

    score: str
    distance: float
    """Largest difference of the cumulative distributions, 0 to 1, measured at the deciles."""
    by_chance: float
    """What two samples of this size from one distribution hardly ever exceed."""


def deciles(clips: Sequence[ClipRecord]) -> dict[str, Deciles]:
    """Those of each score and backend that enough clips have; a score of two backends is left out."""
    values: dict[str, list[float]] = defaultdict(list)
    backends: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        for name, score in clip.scores.items():
            values[name].append(score.value)
            backends[name].add(score.backend)
    return {
        name: Deciles(
            backend=next(iter(backends[name])),
            count=len(found),
            values=tuple(float(v) for v in np.quantile(found, np.linspace(0, 1, 11))),
        )
        for name, found in sorted(values.items())
        if len(found) >= _MIN_CLIPS and len(backends[name]) == 1
    }


def drift(before: Mapping[str, Deciles], after: Mapping[str, Deciles]) -> list[Drift]:
    """For each score that both have from the same backend, the furthest first."""
    found = [
        Drift(
            name,
            _distance(before[name].values, new.values),
            _CHANCE * math.sqrt(1 / before[name].count + 1 / new.count),
        )
        for name, new in after.items()
        if name in before and before[name].backend == new.backend
    ]
    return sorted(found, key=lambda d: -d.distance)


def deciles_from(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Deciles]:
    """What `dataclasses.asdict` made of them."""
    return {
        name: Deciles(str(d["backend"]), int(d["count"]), tuple(map(float, d["values"])))
        for name, d in values.items()
    }


def _distance(before: Sequence[float], after: Sequence[float]) -> float:
    points = sorted({*before, *after})
    return max(abs(_share_below(before, x) - _share_below(after, x)) for x in points)


def _share_below(quantiles: Sequence[float], x: float) -> float:
    """The share of a sample that is at most x, linear between its deciles."""
    above = bisect_right(quantiles, x)
    if above == 0:
        return 0.0
    if above == len(quantiles):
        return 1.0
    low, high = quantiles[above - 1], quantiles[above]
    return (above - 1 + (x - low) / (high - low)) / (len(quantiles) - 1)
