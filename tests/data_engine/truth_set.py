"""Films whose transitions are known to the frame, edited from real shots. The same seed gives the same film.

A shot is a real photograph under a moving camera with sensor noise and sometimes a subject that walks through it, or
a piece of real footage. The editor puts cuts, fades and dissolves between shots, and inside shots what is *not* a
transition: flashes and whip pans.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data as photographs
from sklearn.datasets import load_sample_image

from data_engine.decode import decode_span
from data_engine.schema import ClipRecord
from tests.videos import Image, write_video

HEIGHT_PX, WIDTH_PX = 180, 320

# Seconds of Big Buck Bunny inside single shots, checked by eye.
_FOOTAGE_S = (
    (12.1, 15.1), (47.9, 55.9), (56.3, 60.4), (64.0, 66.5), (75.7, 79.8), (80.1, 89.0), (91.6, 97.0),
    (100.0, 103.7), (113.0, 117.6), (123.6, 126.7), (186.2, 189.1), (200.0, 204.0), (214.0, 220.0),
    (232.7, 241.0), (243.7, 250.5), (266.4, 270.1), (270.6, 275.7), (281.6, 284.5), (292.4, 295.0),
    (308.5, 312.3), (381.4, 389.5), (399.9, 403.5), (412.3, 415.3), (436.4, 440.0), (452.0, 458.0),
)  # fmt: skip

TimedShot = Callable[[float], Image]
"""From seconds since the shot began to its picture (HxWx3 RGB). Defined before its start and after its end too."""

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


def judge_clips(film: Film, clips: Sequence[ClipRecord]) -> Verdict:
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
        chosen = [_FOOTAGE_S[int(k)] for k in generator.permutation(len(_FOOTAGE_S))[:10]]
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


@cache
def photos() -> tuple[Image, ...]:
    """Photographs of scenes and things that ship inside scikit-image and scikit-learn, 1.6 film widths or wider."""
    gray = [photographs.camera(), photographs.coins(), photographs.moon(), photographs.brick()]
    colour = [
        photographs.cat(),
        photographs.coffee(),
        photographs.rocket(),
        photographs.astronaut(),
        photographs.hubble_deep_field(),
        photographs.immunohistochemistry(),
        photographs.retina(),
        load_sample_image("china.jpg"),
        load_sample_image("flower.jpg"),
        *(np.stack([image] * 3, axis=-1) for image in gray),
    ]
    scaled: list[Image] = []
    for image in colour:
        scale = 1.6 * WIDTH_PX / image.shape[1]
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        scaled.append(cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8))
    return tuple(scaled)


def _photo_shots(generator: np.random.Generator, num_shots: int) -> list[TimedShot]:
    """No photograph twice in a row, except now and then another view of the same one: the harder cut."""
    shots: list[TimedShot] = []
    which = -1
    for _ in range(num_shots):
        step = int(generator.integers(1, len(photos())))
        which = (which + step) % len(photos())
        shots.append(photo_shot(photos()[which], generator))
    return shots


def photo_shot(photo: Image, generator: np.random.Generator) -> TimedShot:
    """A camera over a photograph: still, panning, zooming, hand-held, or with a whip pan half a second in."""
    height_px, width_px = photo.shape[:2]
    centre = np.array([width_px, height_px]) * generator.uniform(0.42, 0.58, 2)
    velocity = generator.normal(0, 25, 2) * (generator.random() < 0.7)  # pixels a second
    zoom_rate = float(generator.normal(0, 0.06)) * (generator.random() < 0.6)
    shake_px = float(generator.choice((0.0, 0.8, 2.0)))
    phases = generator.uniform(0, 2 * np.pi, 4)
    mirrored = generator.random() < 0.5
    gain, noise = float(generator.uniform(0.6, 1.1)), _noise(generator)
    whip_px = float(generator.choice((-220, 220))) if generator.random() < 0.2 else 0.0
    subject = _subject(generator) if generator.random() < 0.35 else None

    def corner(time_s: float) -> NDArray[np.float64]:
        shake = np.sin(2 * np.pi * np.array([1.3, 1.7]) * time_s + phases[:2])
        shake += 0.5 * np.sin(2 * np.pi * np.array([4.1, 3.7]) * time_s + phases[2:])
        # An ease in and out over a fifth of a second.
        turn = np.clip((time_s - 0.5) / 0.2, 0, 1)
        whip = np.array([whip_px * (3 * turn**2 - 2 * turn**3), 0])
        return centre + velocity * time_s + shake_px * shake + whip

    def view(time_s: float) -> Image:
        zoom = float(np.exp(zoom_rate * time_s))
        x, y = corner(time_s)
        matrix = np.array([[zoom, 0, x - zoom * WIDTH_PX / 2], [0, zoom, y - zoom * HEIGHT_PX / 2]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(
            photo, matrix, (WIDTH_PX, HEIGHT_PX), flags=flags, borderMode=cv2.BORDER_REFLECT_101
        ).astype(np.uint8, copy=False)

    def draw(time_s: float) -> Image:
        if whip_px and 0.48 < time_s < 0.72:
            # The shutter is open for half a frame: fast motion is smeared.
            image = np.mean([view(time_s + s / 60 / 8) for s in range(8)], axis=0)
        else:
            image = view(time_s)
        if mirrored:
            image = image[:, ::-1]
        image = image * gain
        if subject is not None:
            subject(image, time_s)
        image += noise[round(time_s * 1000) % len(noise)]
        return np.clip(image, 0, 255).astype(np.uint8)

    return draw


def footage_shot(path: Path, start_s: float, end_s: float) -> TimedShot:
    """A piece of a film that holds no cut. Beyond its ends its first and last frames stand still."""
    frames = _read(path, start_s, end_s)
    # Real frames are there before the shot starts: a dissolve from it moves.
    lead_s = 0.5

    def draw(time_s: float) -> Image:
        place = (time_s + lead_s) / (end_s - start_s) * len(frames)
        return frames[int(np.clip(place, 0, len(frames) - 1))]

    return draw


@cache
def _read(path: Path, start_s: float, end_s: float) -> list[Image]:
    return [
        frame.to_ndarray(format="rgb24", width=WIDTH_PX, height=HEIGHT_PX).astype(np.uint8)
        for frame, _ in decode_span(path, start_s, end_s)
    ]


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


def _subject(generator: np.random.Generator) -> Callable[[NDArray[np.float64], float], None]:
    """An oval piece of another photograph that crosses the picture."""
    source = photos()[int(generator.integers(len(photos())))]
    height_px, width_px = (int(generator.uniform(50, 110)) for _ in range(2))
    patch = source[:height_px, :width_px].astype(np.float64)
    ys, xs = np.mgrid[-1 : 1 : height_px * 1j, -1 : 1 : width_px * 1j]
    inside = (xs**2 + ys**2 < 1)[..., None]
    top = int(generator.integers(0, HEIGHT_PX - height_px))
    start_px, speed_px = generator.uniform(0, WIDTH_PX), generator.uniform(30, 120)
    way = float(generator.choice((-1, 1)))

    def paint(image: NDArray[np.float64], time_s: float) -> None:
        # There and back again.
        reach_px = WIDTH_PX - width_px
        left = int(abs((start_px + way * speed_px * time_s) % (2 * reach_px) - reach_px))
        place = image[top : top + height_px, left : left + width_px]
        place[...] = np.where(inside, patch, place)

    return paint


def _noise(generator: np.random.Generator) -> NDArray[np.float32]:
    strength = float(generator.uniform(0.5, 4.0))
    return generator.normal(0, strength, (7, HEIGHT_PX, WIDTH_PX, 1)).astype(np.float32)
