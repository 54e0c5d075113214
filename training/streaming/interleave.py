"""Infinite streams that are mixed in stated proportions, as a pure function of the position."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from training.randomness import generator_at

Key = tuple[int | str, ...]


def permutation(size: int, *key: int | str) -> NDArray[np.int64]:
    """A random order of the numbers below `size` that depends on nothing but the key."""
    return torch.randperm(size, generator=generator_at(*key)).numpy()


class Interleave:
    """Position -> (stream, how many came from that stream before).

    In each cycle of `sum(counts)` positions stream i comes exactly `counts[i]` times, in a new random order.
    """

    def __init__(self, counts: Sequence[int], key: Key) -> None:
        self._counts = np.asarray(counts, np.int64)
        self._key = key
        self.cycle = int(self._counts.sum())
        # Two: a batch may span the end of one cycle and the start of the next.
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def at(self, position: int) -> tuple[int, int]:
        cycle, place = divmod(position, self.cycle)
        if len(self._counts) == 1:
            return 0, position
        stream_of, before = self._order(cycle)
        stream = int(stream_of[place])
        return stream, cycle * int(self._counts[stream]) + int(before[place])

    def _draw_order(self, cycle: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        labels = np.repeat(np.arange(len(self._counts)), self._counts)
        stream_of = labels[permutation(self.cycle, *self._key, cycle)]
        # Stable: the places of each stream stay in order, so their rank is the number that came before.
        places = np.argsort(stream_of, kind="stable")
        starts = np.cumsum(self._counts) - self._counts
        before = np.empty(self.cycle, np.int64)
        before[places] = np.arange(self.cycle) - np.repeat(starts, self._counts)
        return stream_of, before


def whole_counts(shares: Sequence[float], total: int) -> list[int]:
    """Whole numbers near `total * share`, at least 1 where the share is above 0."""
    scale = total / sum(shares)
    return [max(1, round(share * scale)) if share > 0 else 0 for share in shares]
