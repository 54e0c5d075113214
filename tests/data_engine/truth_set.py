"""Films whose transitions are known to the frame, edited from real shots. The same seed gives the same film.

A shot is a real photograph under a moving camera with sensor noise and sometimes a subject that walks through it, or
a piece of real footage. The editor puts cuts, fades and dissolves between shots, and inside shots what is *not* a
transition: flashes and whip pans.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import cv2
import numpy as np

from tests.data_engine.real_shots import (
    FOOTAGE_S,
    TimedShot,
    footage_shot,
    photo_shot,
    photos,
)
from tests.videos import HEIGHT_PX, WIDTH_PX, Image, write_video

_Event = TypeVar("_Event")

Kind = Literal["cut", "dissolve", "black", "white"]
KINDS: tuple[Kind, ...] = ("cut", "dissolve", "black", "white")
Rate = Literal[24, 25, 30, 60, "variable"]
RATES: tuple[Rate, ...] = (24, 25, 30, 60, "variable")


@dataclass(frozen=True, slots=True)
class Transition:
    """Frames `first` to `after`, half-open, mix two shots; a cut mixes none, so both are the new shot's first frame."""

    kind: Kind
    first: int
    after: int


@dataclass(frozen=True, slots=True)
class Film:
    """An edited film: how to draw each frame, when it is shown, and what is true of it."""

    name: str
    times_s: list[float]
    draw: list[Callable[[], Image]] = field(repr=False)
    shot_of: list[int | None] = field(repr=False)
    """The shot that a frame shows; None for a frame of a transition."""
    transitions: list[Transition]

    @property
    def duration_s(self) -> float:
        return 2 * self.times_s[-1] - self.times_s[-2]

    def frames(self) -> Iterator[Image]:
        return (draw() for draw in self.draw)

    def write(self, folder: Path) -> Path:
        path = folder / f"{self.name}.mp4"
        return write_video(path, self.frames(), fps=25, times_s=self.times_s)


@dataclass(slots=True)
class Tally:
    """What was found against what is true."""

    hits: int = 0
    misses: int = 0
    false_alarms: int = 0

    @property
    def f1(self) -> float:
        return 2 * self.hits / max(1, 2 * self.hits + self.misses + self.false_alarms)

    def add(self, other: "Tally") -> None:
        self.hits += other.hits
        self.misses += other.misses
        self.false_alarms += other.false_alarms

    def __str__(self) -> str:
        return (
            f"F1 {self.f1:.3f} ({self.hits} found, {self.misses} missed, {self.false_alarms} false)"
        )


@dataclass(slots=True)
class Verdict:
    """Hard cuts, gradual transitions, and frames in clips that show another shot or a transition."""

    hard: Tally = field(default_factory=Tally)
    gradual: Tally = field(default_factory=Tally)
    num_foreign: int = 0
    num_in_clips: int = 0
    num_in_shots: int = 0

    def add(self, other: "Verdict") -> None:
        self.hard.add(other.hard)
        self.gradual.add(other.gradual)
        self.num_foreign += other.num_foreign
        self.num_in_clips += other.num_in_clips
        self.num_in_shots += other.num_in_shots

    def __str__(self) -> str:
        return (
            f"hard {self.hard}; gradual {self.gradual}; {self.num_foreign} foreign frames; clips hold "
            f"{self.num_in_clips} of {self.num_in_shots} frames of shots"
        )


class Spanned(Protocol):
    """A clip, or anything else that lasts."""

    @property
    def start_s(self) -> float: ...
    @property
    def end_s(self) -> float: ...


def judge_clips(film: Film, clips: Sequence[Spanned]) -> Verdict:
    """Compare clips that cover whole shots with the truth: what lies between two clips is a transition.

    Two clips that touch are a cut. A gap is a gradual transition.
    """
    spans = sorted(
        (frame_at(film.times_s, clip.start_s), frame_at(film.times_s, clip.end_s)) for clip in clips
    )
    num_frames = len(film.times_s)
    gaps = [(a_end, b_start) for (_, a_end), (b_start, _) in pairwise(spans)]
    if spans and spans[0][0] > 0:
        gaps.insert(0, (0, spans[0][0]))
    if spans and spans[-1][1] < num_frames:
        gaps.append((spans[-1][1], num_frames))
    return judge(film, gaps, spans)


def judge(
    film: Film, found: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]
) -> Verdict:
    """`found`: transitions as (first, after) frames, equal for a cut. `spans`: the frames of each clip."""
    hard = [t.first for t in film.transitions if t.kind == "cut"]
    soft = [(t.first, t.after) for t in film.transitions if t.kind != "cut"]
    verdict = Verdict(
        hard=_match(hard, [a for a, b in found if a == b], lambda t, f: abs(t - f) <= 1),
        gradual=_match(soft, [(a, b) for a, b in found if a < b], _is_same_gradual),
        num_in_shots=sum(shot is not None for shot in film.shot_of),
    )
    for first, after in spans:
        shots = film.shot_of[first:after]
        own = max(set(shots) - {None}, key=shots.count, default=None)
        verdict.num_in_clips += len(shots)
        verdict.num_foreign += sum(shot is None or shot != own for shot in shots)
    return verdict


def frame_at(times_s: Sequence[float], time_s: float) -> int:
    """The first frame that is shown at `time_s` or later; a microsecond of slack, as times pass through float."""
    return bisect_left(times_s, time_s - 1e-4)


def films_from_photographs(num_films: int, seed: int) -> list[Film]:
    """Films of about ten shots, over all frame rates in turn."""
    return [
        edit_film(
            f"photographs_{seed}_{i}",
            _photo_shots(np.random.default_rng([seed, i, 0]), 10),
            RATES[i % len(RATES)],
            np.random.default_rng([seed, i, 1]),
        )
        for i in range(num_films)
    ]


def films_from_footage(folder: Path, num_films: int, seed: int) -> list[Film]:
    """The same from footage: shots of Big Buck Bunny, whose file `data_engine.samples` puts into `folder`."""
    films: list[Film] = []
    for i in range(num_films):
        generator = np.random.default_rng([seed, i, 2])
        chosen = [FOOTAGE_S[int(k)] for k in generator.permutation(len(FOOTAGE_S))[:10]]
        shots = [footage_shot(folder / "big_buck_bunny.mp4", *span) for span in chosen]
        films.append(edit_film(f"footage_{seed}_{i}", shots, RATES[i % len(RATES)], generator))
    return films


def edit_film(
    name: str, shots: Sequence[TimedShot], rate: Rate, generator: np.random.Generator
) -> Film:
    """Put shots of 1 to 3 s together with transitions drawn at random, half of them cuts."""
    film = Film(name, [], [], [], [])
    clock = _clock(rate, generator)
    time_s = next(clock)
    for number, shot in enumerate(shots):
        start_s, length_s = time_s, float(generator.uniform(1.0, 3.0))
        drawn = _with_flash(shot, length_s, generator) if generator.random() < 0.25 else shot
        while time_s < start_s + length_s:
            _append(film, time_s, number, partial(drawn, time_s - start_s))
            time_s = next(clock)
        if number + 1 == len(shots):
            break
        first, mix_start_s = len(film.times_s), film.times_s[-1]
        kind = KINDS[int(generator.choice(len(KINDS), p=(0.5, 0.26, 0.12, 0.12)))]
        mix_s = 0.0 if kind == "cut" else float(generator.uniform(0.3, 1.5))
        while time_s < mix_start_s + mix_s:
            share = (time_s - mix_start_s) / mix_s
            before = partial(drawn, time_s - start_s)
            after = partial(shots[number + 1], (share - 1) * mix_s)
            _append(film, time_s, None, partial(_mixed, kind, before, after, share))
            time_s = next(clock)
        film.transitions.append(Transition(kind, first, len(film.times_s)))
    return film


def _append(film: Film, time_s: float, shot: int | None, draw: Callable[[], Image]) -> None:
    film.times_s.append(time_s)
    film.draw.append(draw)
    film.shot_of.append(shot)


def _mixed(
    kind: Kind,
    before: Callable[[], Image],
    after: Callable[[], Image],
    share: float,
) -> Image:
    """The picture at `share` (0 to 1) of a transition; a tenth of a fade is blank altogether."""
    if kind == "dissolve":
        first, second, weight = before(), after(), share
    else:
        blank = np.full((HEIGHT_PX, WIDTH_PX, 3), 0 if kind == "black" else 255, np.uint8)
        if share < 0.5:
            first, second, weight = before(), blank, min(1.0, share / 0.45)
        else:
            first, second, weight = blank, after(), max(0.0, (share - 0.55) / 0.45)
    return cv2.addWeighted(first, 1 - weight, second, weight, 0).astype(np.uint8, copy=False)


def _clock(rate: Rate, generator: np.random.Generator) -> Iterator[float]:
    """Presentation times. A variable rate runs at 15, 20, 30 or 50 frames a second for a while, then changes."""
    time_s, step_s, left = 0.0, 0.0, 0
    while True:
        yield time_s
        if rate != "variable":
            step_s = 1 / rate
        elif left == 0:
            step_s, left = 1 / float(generator.choice((15, 20, 30, 50))), 40
        left -= 1
        time_s += step_s


def _with_flash(shot: TimedShot, length_s: float, generator: np.random.Generator) -> TimedShot:
    """One or two bright frames in the middle of the shot: a photographer's flash."""
    at_s = length_s * float(generator.uniform(0.35, 0.65))
    lasts_s = float(generator.choice((0.03, 0.06)))
    strength = float(generator.uniform(0.5, 0.95))

    def draw(time_s: float) -> Image:
        image = shot(time_s)
        if not at_s <= time_s < at_s + lasts_s:
            return image
        return cv2.addWeighted(image, 1 - strength, np.full_like(image, 255), strength, 0).astype(
            np.uint8, copy=False
        )

    return draw


def _match(
    truths: Sequence[_Event], found: Sequence[_Event], is_same: Callable[[_Event, _Event], bool]
) -> Tally:
    """Pair each truth with at most one finding, in order."""
    left = list(found)
    tally = Tally()
    for truth in truths:
        same = next((event for event in left if is_same(truth, event)), None)
        if same is None:
            tally.misses += 1
        else:
            left.remove(same)
            tally.hits += 1
    tally.false_alarms = len(left)
    return tally


def _is_same_gradual(truth: tuple[int, int], found: tuple[int, int]) -> bool:
    """At least half of the true frames are found, and at most twice as many."""
    shared = min(truth[1], found[1]) - max(truth[0], found[0])
    length = truth[1] - truth[0]
    # A short one may be wider by a few frames at both ends.
    return shared >= length / 2 and found[1] - found[0] <= 2 * length + 6


def _photo_shots(generator: np.random.Generator, num_shots: int) -> list[TimedShot]:
    """No photograph twice in a row, except now and then another view of the same one: the harder cut."""
    shots: list[TimedShot] = []
    which = -1
    for _ in range(num_shots):
        step = int(generator.integers(1, len(photos())))
        which = (which + step) % len(photos())
        shots.append(photo_shot(photos()[which], generator))
    return shots
