"""Dissolves, from thumbnails of every frame: which runs of frames blend one shot into the next.

A frame of a dissolve is a linear blend of the frames before and after it, and has less contrast than both (a
variance parabola: Alattar, 1993); moving cameras and subjects do neither. Everything here counts in frames.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_engine.steadiness import frames_still_mixed
from data_engine.thumbnails import centred, floats

# Lengths that are tried, in seconds, each a third longer than the last.
_DISSOLVE_LENGTHS_S = (0.26, 0.34, 0.44, 0.57, 0.74, 0.96, 1.25, 1.6, 2.1)
_MIN_DISSOLVE_S = 0.2
_MIN_DISTANCE = 12.0
_MAX_CORRELATION = 0.5
# Ends that are more alike than that are blended as well, if the blend fits so well, and they are so far apart.
_MAX_CORRELATION_IF_GOOD, _MAX_COST_IF_GOOD, _MIN_DISTANCE_IF_GOOD = 0.75, 0.5, 24.0
# How far the frames at a quarter, half and three quarters may be from where a linear blend puts them: along the line
# between the ends, and away from it; both in parts of the distance of the ends.
_MAX_UNEVENNESS = 0.2
_MAX_RESIDUAL = 0.45
# Above the variance that a blend of the two ends would have, in parts of their mean variance.
_MAX_EXCESS_VARIANCE = 0.3
# Variance of the frame half way, in parts of the mean of the ends: 0.5 for unrelated pictures, 1 for motion.
_MAX_DIP_OF_VARIANCE = 0.85
# Of the variance of how far along the frames are, the part that an even progress may leave over.
_MAX_MISFIT = 0.25
# Frames that are mixed so little that nothing can tell, at both ends.
_MARGIN = 2
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class _Window:
    """Frames `first` and `last` may be the last and the first that show one shot alone. Lower `cost` is better."""

    first: int
    last: int
    cost: float


class DissolveFinder:
    """All frames of a source as thumbnails, N x 576."""

    def __init__(self, thumbnails: NDArray[np.uint8], fps: float) -> None:
        self._thumbnails = thumbnails
        self._fps = fps

    def between(self, left: int, right: int) -> Iterator[tuple[int, int]]:
        """Dissolves between two frames, as frames (first, after) that belong to no shot."""
        taken: list[tuple[int, int]] = []
        windows = sorted(self._windows(left, right), key=lambda window: window.cost)
        for window in windows:
            if any(window.first < b and a < window.last for a, b in taken):
                continue
            if not self._is_dissolve(window.first, window.last):
                continue
            first, last, misfit = self._fit(window, left, right)
            if misfit > _MAX_MISFIT or not self._is_dissolve(first, last):
                continue
            first, last = self._steady(first, last, left, right)
            span = max(left, first + 1 - _MARGIN), min(right, last + _MARGIN)
            taken.append(span)
            yield span

    def _windows(self, left: int, right: int) -> Iterator[_Window]:
        """Windows whose frames blend from their first to their last."""
        for length_s in _DISSOLVE_LENGTHS_S:
            length = max(4, round(length_s * self._fps))
            starts = np.arange(left, right - length, max(1, length // 8))
            for block in range(0, len(starts), _BLOCK):
                yield from self._windows_at(starts[block : block + _BLOCK], length)

    def _windows_at(self, starts: NDArray[np.int_], length: int) -> Iterator[_Window]:
        first, last = self._pictures(starts), self._pictures(starts + length)
        num_values = first.shape[1]
        apart = ((last - first) ** 2).sum(1)
        flat_first, flat_last = centred(first), centred(last)
        variance_first, variance_last = (flat_first**2).sum(1), (flat_last**2).sum(1)
        covariance = (flat_first * flat_last).sum(1)
        correlation = covariance / np.sqrt(variance_first * variance_last + 1e-6)
        keep = (apart > _MIN_DISTANCE**2 * num_values) & (correlation < _MAX_CORRELATION_IF_GOOD)
        if not keep.any():
            return
        starts, first, way = starts[keep], first[keep], (last - first)[keep]
        apart, covariance, correlation = apart[keep], covariance[keep], correlation[keep]
        variance_first, variance_last = variance_first[keep], variance_last[keep]
        unevenness = np.zeros(len(starts), np.float32)
        residual = np.zeros(len(starts), np.float32)
        excess = np.zeros(len(starts), np.float32)
        for quarter in (1, 2, 3):
            offset = round(length * quarter / 4)
            share = offset / length
            between = self._pictures(starts + offset)
            from_first = between - first
            along = (from_first * way).sum(1) / apart
            off = np.sqrt(np.maximum(0, (from_first**2).sum(1) / apart - along**2))
            blend = (1 - share) ** 2 * variance_first + share**2 * variance_last
            blend += 2 * share * (1 - share) * covariance
            scale = (1 - share) * variance_first + share * variance_last + 1e-6
            unevenness = np.maximum(unevenness, np.abs(along - share))
            residual = np.maximum(residual, off)
            excess = np.maximum(excess, ((centred(between) ** 2).sum(1) - blend) / scale)
        good = (unevenness < _MAX_UNEVENNESS) & (residual < _MAX_RESIDUAL)
        good &= excess < _MAX_EXCESS_VARIANCE
        is_close = (unevenness + residual < _MAX_COST_IF_GOOD) & (
            apart > _MIN_DISTANCE_IF_GOOD**2 * num_values
        )
        good &= (correlation < _MAX_CORRELATION) | is_close
        cost = unevenness + residual + np.maximum(0, correlation)
        for i in np.flatnonzero(good):
            yield _Window(int(starts[i]), int(starts[i]) + length, float(cost[i]))

    def _fit(self, window: _Window, left: int, right: int) -> tuple[int, int, float]:
        """The last frame that shows the old shot alone, the first that shows the new one alone, and the misfit."""
        first, last, misfit = window.first, window.last, 0.0
        for _ in range(3):
            reach = (last - first) // 2 + 3
            begin, end = max(left, first - reach), min(right, last + reach + 1)
            pictures = self._pictures(np.arange(begin, end))
            old, new = pictures[first - begin], pictures[last - begin]
            way = new - old
            shares = (pictures - old) @ way / max(float(way @ way), 1e-6)
            start, stop, misfit = _best_ramp(shares, pictures.var(1), (first + last) // 2 - begin)
            if (begin + start, begin + stop) == (first, last):
                break
            first, last = begin + start, begin + stop
        return first, last, misfit

    def _steady(self, first: int, last: int, left: int, right: int) -> tuple[int, int]:
        """The same two frames, moved outwards to where the picture is steady."""
        length, middle = last - first, self._thumbnails[(first + last) // 2]
        backwards = self._thumbnails[left : first + 1][::-1]
        first -= frames_still_mixed(backwards, middle, length)
        last += frames_still_mixed(self._thumbnails[last:right], middle, length)
        return first, last

    def _is_dissolve(self, first: int, last: int) -> bool:
        """Whether the picture half way has less contrast than the ends, as a blend has and a moved picture has not."""
        if last - first < _MIN_DISSOLVE_S * self._fps:
            return False
        old, middle, new = self._pictures(np.array([first, (first + last) // 2, last])).var(1)
        return bool(middle < _MAX_DIP_OF_VARIANCE * (old + new) / 2)

    def _pictures(self, frames: NDArray[np.int_]) -> NDArray[np.float32]:
        return floats(self._thumbnails[frames])


def _best_ramp(
    shares: NDArray[np.float32], variance: NDArray[np.float32], middle: int
) -> tuple[int, int, float]:
    """The dissolve that explains best how far along each frame is and how its variance dips.

    Its first and last end, and the part of the variance of `shares` that it does not explain.

    It starts before `middle` and ends after it. The levels at both sides are free: the ends of the window that
    `shares` was measured with may lie inside the dissolve. The variance does not mind motion.
    """
    num_frames = len(shares)
    along = np.arange(num_frames, dtype=np.float64)
    grid = max(1, num_frames // 40)
    stops = np.arange(middle + 1, num_frames, grid)
    best, least = (0, num_frames - 1, np.inf), np.inf
    for start in range(0, middle, grid):
        ramp_QT = np.clip((along - start) / (stops - start)[:, None], 0, 1)
        level = np.ones_like(ramp_QT)
        mixed = ramp_QT * (1 - ramp_QT)
        misfits = _misfit(np.stack([level, ramp_QT], -1), shares)
        errors = misfits + _misfit(np.stack([(1 - ramp_QT) ** 2, ramp_QT**2, mixed], -1), variance)
        i = int(errors.argmin())
        if errors[i] < least:
            best, least = (start, int(stops[i]), float(misfits[i])), errors[i]
    return best


def _misfit(basis_QTK: NDArray[np.float64], values_T: NDArray[np.float32]) -> NDArray[np.float64]:
    """Share of the variance of `values_T` that the best combination of each basis leaves over."""
    squares_QKK = np.einsum("qtk,qtl->qkl", basis_QTK, basis_QTK)
    squares_QKK += 1e-6 * np.eye(basis_QTK.shape[-1])
    along_QK = np.einsum("qtk,t->qk", basis_QTK, values_T)
    weights_QK = np.linalg.solve(squares_QKK, along_QK[..., None])[..., 0]
    left_QT = values_T - np.einsum("qtk,qk->qt", basis_QTK, weights_QK)
    return (left_QT**2).mean(1) / max(float(values_T.var()), 1e-6)
