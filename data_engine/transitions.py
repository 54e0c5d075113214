"""Transitions between shots, from thumbnails of every frame: which changes are cuts, and which frames mix two shots.

A fade is a run of blank frames with a linear ramp at either side. A flash is a jump that is taken back within a few
frames. Dissolves are found by `dissolves.py`. Everything here counts in frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_engine.config import ShotConfig
from data_engine.dissolves import DissolveFinder
from data_engine.steadiness import frames_still_mixed
from data_engine.thumbnails import correlation, distances, floats, mean_and_contrast, steps_between

Kind = Literal["cut", "fade", "dissolve", "damage"]

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
# Frames that are mixed so little that neither eye nor fit can tell.
_MARGIN_SHARE = 0.08


@dataclass(frozen=True, slots=True)
class Transition:
    """Frames `first` to `after` (half-open) belong to no shot. A cut has none: both are the first of the new shot."""

    kind: Kind
    first: int
    after: int


class TransitionFinder:
    """All frames of a source as thumbnails, N x 576."""

    def __init__(self, thumbnails: NDArray[np.uint8], fps: float, config: ShotConfig) -> None:
        self._thumbnails = thumbnails
        self._fps = fps
        self._config = config
        self._steps = steps_between(thumbnails)
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
            colour = floats(self._thumbnails[first:after]).mean()
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
            # Where a ramp ends at a cut, that may be its own last step: the frame behind it is mixed still.
            is_cut_short = 0 < before >= first - left, 0 < behind >= right - after
            begin = max(0, left - 1 if is_cut_short[0] else max(left, first - before))
            end = min(len(blank), right + 1 if is_cut_short[1] else min(right, after + behind))
            found.append(Transition("fade", begin, end))
        return found

    def dissolves(self, cuts: Sequence[int], fades: Sequence[Transition]) -> list[Transition]:
        """Runs of frames that blend what is before them into what is after them, between cuts and fades."""
        num_frames = len(self._thumbnails)
        walls = sorted({0, num_frames, *cuts, *(f.first for f in fades), *(f.after for f in fades)})
        in_fade = {f.first for f in fades}
        finder = DissolveFinder(self._thumbnails, self._fps)
        found: list[Transition] = []
        for left, right in pairwise(walls):
            if left not in in_fade:
                found += [Transition("dissolve", *span) for span in finder.between(left, right)]
        return found

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
        before, after = floats(self._thumbnails[cut - 1 : cut + 1])
        return correlation(before, after) < _MAX_UNRELATED_CORRELATION

    def _is_taken_back(self, frame: int) -> bool:
        """Whether the step to `frame` is one end of a flash."""
        reach = max(3, round(_MAX_FLASH_S * self._fps))
        later = floats(self._thumbnails[frame + 1 : frame + 1 + reach])
        earlier = floats(self._thumbnails[max(0, frame - 1 - reach) : max(0, frame - 1)])
        before, now = floats(self._thumbnails[frame - 1 : frame + 1])
        back = [*distances(later, before), *distances(earlier, now)]
        return min(back, default=np.inf) < _MAX_TAKEN_BACK * self._steps[frame]

    def _blank(self) -> NDArray[np.bool_]:
        mean, contrast = mean_and_contrast(self._thumbnails)
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
        earlier, later = floats(self._thumbnails[[before, after]])
        return correlation(earlier, later) > _MIN_SAME_CORRELATION

    def _ramp(self, frames: range, colour: float) -> int:
        """How many of `frames`, which lead away from blank ones of this colour, belong to the fade.

        Their distance from the blank colour grows linearly, then stays. The best such curve is taken.
        """
        max_frames = round(_MAX_RAMP_S * self._fps)
        outward = self._thumbnails[list(frames[: 2 * max_frames])]
        frames = frames[:max_frames]
        if len(frames) < 2:
            return len(frames)
        away = distances(floats(outward[: len(frames)]), np.float32(colour))
        along = np.arange(1, len(frames) + 1)
        errors: list[float] = []
        for length in range(1, len(frames) + 1):
            shape = np.minimum(1.0, along / length)
            level = float((shape * away).sum() / (shape * shape).sum())
            errors.append(float(((away - level * shape) ** 2).mean()))
        length = int(np.argmin(errors)) + 1
        if length == 1 or away[:length].max() < _MIN_RAMP_GAIN:
            return 1 if away[0] < _MIN_RAMP_GAIN else 0
        more = frames_still_mixed(outward[length - 1 :], outward[length // 2], length)
        return length + more + 1 + round(_MARGIN_SHARE * length)


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
