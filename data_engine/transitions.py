"""Transitions between shots, from thumbnails of every frame: which changes are cuts, and which frames mix two shots.

A frame of a dissolve is a linear blend of the frames before and after it, and has less contrast than both (a
variance parabola: Alattar, 1993); moving cameras and subjects do neither. A fade is a run of blank frames with a linear
ramp at either side. A flash is a jump that is taken back within a few frames.

Everything here counts in frames. Thumbnails are compared by the root mean square of their difference, 0 to 255.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from data_engine.config import ShotConfig

THUMBNAIL_SIZE = (32, 18)
"""Width and height: so coarse that a slow pan changes little, and an hour at 24 fps takes 50 MB."""

Kind = Literal["cut", "fade", "dissolve"]

# Cuts. A jump stands out of the changes around it by this factor; what moves fast does not, nor do repeated frames.
_NEIGHBOURHOOD_S = 0.2
_MIN_JUMP_RATIO = 1.5
# Two cuts close together do not stand out, but their pictures have nothing in common.
_MAX_UNRELATED_CORRELATION = 0.3
_MIN_SAME_CORRELATION = 0.6
# A flash lasts no longer, and the frame after it is this much closer to the one before it than the flash is.
_MAX_FLASH_S = 0.12
_MAX_TAKEN_BACK = 0.6
# A smaller step is noise.
_MIN_JUMP = 4.0

# Fades. A blank frame has almost no contrast; a ramp at one side of the blank frames takes at most so long.
_MAX_BLANK_CONTRAST = 4.0
_MAX_RAMP_S = 2.0
# A fade without blank frames: its faintest frame is this many times as bright as a black one may be, and has so much
# less contrast than what is found this long before and after it.
_NEARLY, _MAX_DIP_CONTRAST, _MAX_DIP, _MAX_DIP_S = 4.0, 20.0, 0.35, 0.4
_MIN_RAMP_GAIN = 6.0

# Dissolves: lengths that are tried, in seconds, each a third longer than the last.
_DISSOLVE_LENGTHS_S = (0.26, 0.34, 0.44, 0.57, 0.74, 0.96, 1.25, 1.6, 2.1)
_MIN_DISSOLVE_S = 0.2
_MIN_DISTANCE = 12.0
_MAX_CORRELATION = 0.5
# How far the frames at a quarter, half and three quarters may be from where a linear blend puts them: along the line
# between the ends, and away from it; both in parts of the distance of the ends.
_MAX_UNEVENNESS = 0.2
_MAX_RESIDUAL = 0.45
# Above the variance that a blend of the two ends would have, in parts of their mean variance.
_MAX_EXCESS_VARIANCE = 0.3
# Variance of the frame half way, in parts of the mean of the ends: 0.5 for unrelated pictures, 1 for motion.
_MAX_DIP_OF_VARIANCE = 0.85
# Frames that are mixed so little that neither eye nor fit can tell, at both ends of a gradual transition.
_MARGIN_SHARE = 0.08
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Transition:
    """Frames `first` to `after` (half-open) belong to no shot. A cut has none: both are the first of the new shot."""

    kind: Kind
    first: int
    after: int


@dataclass(frozen=True, slots=True)
class _Window:
    """Frames `first` and `last` may be the last and the first that show one shot alone. Lower `cost` is better."""

    first: int
    last: int
    cost: float


def thumbnail(frame_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame as a vector of 18 x 32 values of luma."""
    small = cv2.resize(frame_bgr, THUMBNAIL_SIZE, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.uint8, copy=False).reshape(-1)


class TransitionFinder:
    """All frames of a source as thumbnails, N x 576."""

    def __init__(self, thumbnails: NDArray[np.uint8], fps: float, config: ShotConfig) -> None:
        self._thumbnails = thumbnails
        self._fps = fps
        self._config = config
        self._steps = _steps(thumbnails)
        """Distance of each frame from the one before it; 0 for the first."""

    def find(self, candidates: Sequence[int]) -> list[Transition]:
        """Cuts among the candidates, fades and dissolves: in order and apart from each other."""
        cuts = self.cuts(candidates)
        found = self.fades(cuts)
        if self._config.find_dissolves:
            found += self.dissolves(cuts, found)
        return join(found, cuts)

    def cuts(self, candidates: Sequence[int]) -> list[int]:
        """The candidates that are neither flashes nor fast motion."""
        flash_edges = {
            t for t in map(int, np.flatnonzero(self._steps > _MIN_JUMP)) if self._is_taken_back(t)
        }
        return [
            cut
            for cut in sorted(set(candidates))
            if cut not in flash_edges and self._stands_out(cut, flash_edges)
        ]

    def fades(self, cuts: Sequence[int]) -> list[Transition]:
        """Blank frames, black or white, with the ramps that lead to them and away."""
        blank = self._blank()
        runs = [(a, b) for a, b in runs_of(blank) if not self._is_flash(a, b)]
        found: list[Transition] = []
        for first, after in runs:
            colour = _floats(self._thumbnails[first:after]).mean()
            left = max(
                [0, *(cut for cut in cuts if cut <= first), *(b for _, b in runs if b <= first)]
            )
            right = min(
                [
                    len(blank),
                    *(cut for cut in cuts if cut >= after),
                    *(a for a, _ in runs if a >= after),
                ]
            )
            before = self._ramp(range(first - 1, left - 1, -1), float(colour))
            behind = self._ramp(range(after, right), float(colour))
            found.append(Transition("fade", max(left, first - before), min(right, after + behind)))
        return found

    def dissolves(self, cuts: Sequence[int], fades: Sequence[Transition]) -> list[Transition]:
        """Runs of frames that blend what is before them into what is after them, between cuts and fades."""
        num_frames = len(self._thumbnails)
        walls = sorted({0, num_frames, *cuts, *(f.first for f in fades), *(f.after for f in fades)})
        in_fade = {f.first for f in fades}
        found: list[Transition] = []
        for left, right in pairwise(walls):
            if left not in in_fade:
                found += self._dissolves_in(left, right)
        return found

    def _dissolves_in(self, left: int, right: int) -> Iterator[Transition]:
        taken: list[tuple[int, int]] = []
        windows = sorted(self._windows(left, right), key=lambda window: window.cost)
        for window in windows:
            if any(window.first < b and a < window.last for a, b in taken):
                continue
            if not self._is_dissolve(window.first, window.last):
                continue
            first, last = self._fit(window, left, right)
            if not self._is_dissolve(first, last):
                continue
            margin = 2 + round(_MARGIN_SHARE * (last - first))
            span = max(left, first + 1 - margin), min(right, last + margin)
            taken.append(span)
            yield Transition("dissolve", *span)

    def _stands_out(self, cut: int, flash_edges: set[int]) -> bool:
        steps, reach = self._steps, max(2, round(_NEIGHBOURHOOD_S * self._fps))
        around = [
            steps[t]
            for t in range(max(1, cut - reach), min(len(steps), cut + reach + 1))
            if t != cut and t not in flash_edges
        ]
        if steps[cut] < _MIN_JUMP:
            return False
        if steps[cut] >= _MIN_JUMP_RATIO * max(around, default=0.0):
            return True
        before, after = _floats(self._thumbnails[cut - 1 : cut + 1])
        return _correlation(before, after) < _MAX_UNRELATED_CORRELATION

    def _is_taken_back(self, frame: int) -> bool:
        """Whether the step to `frame` is one end of a flash."""
        reach = max(3, round(_MAX_FLASH_S * self._fps))
        later = _floats(self._thumbnails[frame + 1 : frame + 1 + reach])
        earlier = _floats(self._thumbnails[max(0, frame - 1 - reach) : max(0, frame - 1)])
        before, now = _floats(self._thumbnails[frame - 1 : frame + 1])
        distances = [*_distances(later, before), *_distances(earlier, now)]
        return min(distances, default=np.inf) < _MAX_TAKEN_BACK * self._steps[frame]

    def _blank(self) -> NDArray[np.bool_]:
        mean, contrast = _mean_and_contrast(self._thumbnails)
        black, white = self._config.fade_luma, self._config.white_luma
        is_blank = ((mean < black) | (mean > white)) & (contrast < _MAX_BLANK_CONTRAST)
        # A short fade may have no blank frame, only a faintest one.
        is_near = (mean < _NEARLY * black) | (mean > 255 - _NEARLY * (255 - white))
        reach = round(_MAX_DIP_S * self._fps)
        for t in np.flatnonzero(is_near & ~is_blank & (contrast < _MAX_DIP_CONTRAST)):
            before, after = contrast[max(0, t - reach) : t], contrast[t + 1 : t + 1 + reach]
            if len(before) and len(after):
                faintest = contrast[t] <= min(before.min(), after.min())
                is_blank[t] = faintest and contrast[t] < _MAX_DIP * min(before.max(), after.max())
        return is_blank

    def _is_flash(self, first: int, after: int) -> bool:
        """Whether blank frames are a flash: few, with the same shot a moment before and after them."""
        reach = max(3, round(_MAX_FLASH_S * self._fps))
        before, after = first - reach, after + reach - 1
        if before < 0 or after >= len(self._thumbnails) or after - before > 3 * reach:
            return False
        earlier, later = _floats(self._thumbnails[[before, after]])
        return _correlation(earlier, later) > _MIN_SAME_CORRELATION

    def _ramp(self, frames: range, colour: float) -> int:
        """How many of `frames`, which lead away from blank ones of this colour, belong to the fade.

        Their distance from the blank colour grows linearly, then stays. The best such curve is taken.
        """
        frames = frames[: round(_MAX_RAMP_S * self._fps)]
        if len(frames) < 2:
            return len(frames)
        away = _distances(_floats(self._thumbnails[list(frames)]), np.float32(colour))
        along = np.arange(1, len(frames) + 1)
        errors: list[float] = []
        for length in range(1, len(frames) + 1):
            shape = np.minimum(1.0, along / length)
            level = float((shape * away).sum() / (shape * shape).sum())
            errors.append(float(((away - level * shape) ** 2).mean()))
        length = int(np.argmin(errors)) + 1
        if length == 1 or away[:length].max() < _MIN_RAMP_GAIN:
            return 1 if away[0] < _MIN_RAMP_GAIN else 0
        return length + 1 + round(_MARGIN_SHARE * length)

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
        flat_first, flat_last = _centred(first), _centred(last)
        variance_first, variance_last = (flat_first**2).sum(1), (flat_last**2).sum(1)
        covariance = (flat_first * flat_last).sum(1)
        correlation = covariance / np.sqrt(variance_first * variance_last + 1e-6)
        keep = (apart > _MIN_DISTANCE**2 * num_values) & (correlation < _MAX_CORRELATION)
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
            excess = np.maximum(excess, ((_centred(between) ** 2).sum(1) - blend) / scale)
        good = (unevenness < _MAX_UNEVENNESS) & (residual < _MAX_RESIDUAL)
        good &= excess < _MAX_EXCESS_VARIANCE
        cost = unevenness + residual + np.maximum(0, correlation)
        for i in np.flatnonzero(good):
            yield _Window(int(starts[i]), int(starts[i]) + length, float(cost[i]))

    def _fit(self, window: _Window, left: int, right: int) -> tuple[int, int]:
        """The last frame that shows the old shot alone and the first that shows the new one alone."""
        first, last = window.first, window.last
        for _ in range(3):
            reach = (last - first) // 2 + 3
            begin, end = max(left, first - reach), min(right, last + reach + 1)
            pictures = self._pictures(np.arange(begin, end))
            old, new = pictures[first - begin], pictures[last - begin]
            way = new - old
            shares = (pictures - old) @ way / max(float(way @ way), 1e-6)
            fitted = _best_ramp(shares, pictures.var(1), (first + last) // 2 - begin)
            if (begin + fitted[0], begin + fitted[1]) == (first, last):
                break
            first, last = begin + fitted[0], begin + fitted[1]
        return first, last

    def _is_dissolve(self, first: int, last: int) -> bool:
        """Whether the picture half way has less contrast than the ends, as a blend has and a moved picture has not."""
        if last - first < _MIN_DISSOLVE_S * self._fps:
            return False
        old, middle, new = self._pictures(np.array([first, (first + last) // 2, last])).var(1)
        return bool(middle < _MAX_DIP_OF_VARIANCE * (old + new) / 2)

    def _pictures(self, frames: NDArray[np.int_]) -> NDArray[np.float32]:
        return _floats(self._thumbnails[frames])


def join(gradual: Sequence[Transition], cuts: Sequence[int]) -> list[Transition]:
    """Gradual transitions that touch become one, a fade if one of them is; a cut at or inside one is part of it."""
    joined: list[Transition] = []
    for new in sorted(gradual, key=lambda transition: transition.first):
        if joined and new.first <= joined[-1].after:
            last = joined.pop()
            kind = "fade" if "fade" in (last.kind, new.kind) else last.kind
            new = Transition(kind, last.first, max(last.after, new.after))
        joined.append(new)
    hard = [
        Transition("cut", cut, cut)
        for cut in cuts
        if not any(span.first <= cut <= span.after for span in joined)
    ]
    return sorted([*joined, *hard], key=lambda transition: transition.first)


def runs_of(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Runs of true values, as (first, after)."""
    padded = np.concatenate(([False], flags, [False]))
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _best_ramp(
    shares: NDArray[np.float32], variance: NDArray[np.float32], middle: int
) -> tuple[int, int]:
    """The dissolve that explains best how far along each frame is and how its variance dips: its first and last end.

    It starts before `middle` and ends after it. The levels at both sides are free: the ends of the window that
    `shares` was measured with may lie inside the dissolve. The variance does not mind motion.
    """
    num_frames = len(shares)
    along = np.arange(num_frames, dtype=np.float64)
    grid = max(1, num_frames // 40)
    stops = np.arange(middle + 1, num_frames, grid)
    best, least = (0, num_frames - 1), np.inf
    for start in range(0, middle, grid):
        ramp_QT = np.clip((along - start) / (stops - start)[:, None], 0, 1)
        level = np.ones_like(ramp_QT)
        mixed = ramp_QT * (1 - ramp_QT)
        errors = _misfit(np.stack([level, ramp_QT], -1), shares)
        errors += _misfit(np.stack([(1 - ramp_QT) ** 2, ramp_QT**2, mixed], -1), variance)
        i = int(errors.argmin())
        if errors[i] < least:
            best, least = (start, int(stops[i])), errors[i]
    return best


def _misfit(basis_QTK: NDArray[np.float64], values_T: NDArray[np.float32]) -> NDArray[np.float64]:
    """Share of the variance of `values_T` that the best combination of each basis leaves over."""
    squares_QKK = np.einsum("qtk,qtl->qkl", basis_QTK, basis_QTK)
    squares_QKK += 1e-6 * np.eye(basis_QTK.shape[-1])
    along_QK = np.einsum("qtk,t->qk", basis_QTK, values_T)
    weights_QK = np.linalg.solve(squares_QKK, along_QK[..., None])[..., 0]
    left_QT = values_T - np.einsum("qtk,qk->qt", basis_QTK, weights_QK)
    return (left_QT**2).mean(1) / max(float(values_T.var()), 1e-6)


def _steps(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    steps = np.zeros(len(thumbnails), np.float32)
    for start in range(1, len(thumbnails), _BLOCK):
        block = _floats(thumbnails[start - 1 : start + _BLOCK])
        steps[start : start + _BLOCK] = np.sqrt(((block[1:] - block[:-1]) ** 2).mean(1))
    return steps


def _mean_and_contrast(
    thumbnails: NDArray[np.uint8],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    mean = np.empty(len(thumbnails), np.float32)
    contrast = np.empty(len(thumbnails), np.float32)
    for start in range(0, len(thumbnails), _BLOCK):
        block = _floats(thumbnails[start : start + _BLOCK])
        mean[start : start + _BLOCK] = block.mean(1)
        contrast[start : start + _BLOCK] = block.std(1)
    return mean, contrast


def _floats(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    return thumbnails.astype(np.float32)


def _centred(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    return pictures - pictures.mean(1, keepdims=True)


def _distances(
    pictures: NDArray[np.float32], other: NDArray[np.float32] | np.float32
) -> NDArray[np.float32]:
    return np.sqrt(((pictures - other) ** 2).mean(1))


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    first, second = one - one.mean(), other - other.mean()
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / norm if norm > 0 else 1.0
