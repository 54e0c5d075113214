"""Where shots begin and end, and how shots become clips.

The only module that knows PySceneDetect, whose "scene" is what everybody else calls a shot. Its detectors propose
cuts while frames come by, or `transnet.py` finds them when all have come; `transitions.py` checks the proposals and finds
what is gradual. All of them see frame numbers; times come from our own list of presentation times, so variable frame
rates stay exact.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector

from data_engine.config import ShotConfig
from data_engine.network_frames import check_installed, network_frame
from data_engine.transitions import Transition, TransitionFinder, join, runs_of

# The adaptive detector's own limit on the absolute change of a cut, 15 by default, misses cuts between pictures of
# like colours. What a lower one lets in besides, the check of each cut turns down.
_MIN_CONTENT_CHANGE = 8.0


@dataclass(frozen=True, slots=True)
class Span:
    """A run of frames on the timeline of a source: half-open, in seconds, with its number of frames."""

    start_s: float
    end_s: float
    num_frames: int
    shot_index: int
    """The shot of the source, from 0, that it is the whole or a part of."""

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


FRAMES_BEFORE, FRAMES_AFTER = 3, 2
"""What `CutProposer` must see at either side of some frames to propose the same cuts among them as in the whole source.

The adaptive detector compares the change at a frame with that at two frames on either side, and the first of these
changes is against one frame more.
"""


class CutProposer:
    """Takes frames in order and proposes cuts, a few frames late.

    Raises:
        DetectorError: `config.detector` needs a package that is not installed.
    """

    def __init__(self, config: ShotConfig) -> None:
        self._num_frames = 0
        self._scene_detector = _scene_detector(config)
        self._has_network = config.detector == "transnetv2"
        if self._has_network:
            check_installed()

    def add(self, frame_bgr: NDArray[np.uint8]) -> list[int]:
        """The next frame, HxWx3, at the size for analysis. Gives cuts by their first new frame, counted from 0."""
        number, self._num_frames = self._num_frames, self._num_frames + 1
        if self._scene_detector is None:
            return []
        # Its rate plays no part: everything is counted in frames.
        cuts = self._scene_detector.process_frame(FrameTimecode(number, fps=25.0), frame_bgr)
        return [cut.frame_num for cut in cuts]

    def network_frame(self, frame_bgr: NDArray[np.uint8]) -> bytes:
        """What `find_transitions` needs of this frame for a network; nothing if there is none."""
        return network_frame(frame_bgr) if self._has_network else b""


@dataclass(frozen=True, slots=True)
class SeenFrames:
    """What shots are found from: of every frame of a source, in order."""

    num_frames: int
    thumbnails: NDArray[np.uint8]
    """N x 576; not looked at if the detector is `none`."""
    candidates: Sequence[int]
    """Cuts that `CutProposer` proposed."""
    network_frames: Iterable[bytes]
    """Of `CutProposer.network_frame`; read once, and only if there is a network."""
    damaged: Sequence[int] = ()
    """Frames that do not show what the source once held."""


def find_transitions(seen: SeenFrames, fps: float, config: ShotConfig) -> list[Transition]:
    """Cuts, fades, dissolves and damage in order; runs of frames too short for a shot are part of them."""
    found = [] if config.detector == "none" or not seen.num_frames else _found(seen, fps, config)
    if seen.damaged:
        cuts = [transition.first for transition in found if transition.kind == "cut"]
        gradual = [transition for transition in found if transition.kind != "cut"]
        is_damaged = np.zeros(seen.num_frames, np.bool_)
        is_damaged[list(seen.damaged)] = True
        damage = [Transition("damage", *run) for run in runs_of(is_damaged)]
        found = join([*gradual, *damage], cuts)
    return _without_tiny_shots(found, seen.num_frames, config.min_shot_s * fps)


def _found(seen: SeenFrames, fps: float, config: ShotConfig) -> list[Transition]:
    finder = TransitionFinder(seen.thumbnails, fps, config)
    if config.detector == "transnetv2":
        # Here, because it loads torch, which no other detector needs.
        from data_engine.transnet import find_with_network

        cuts, gradual = find_with_network(seen.network_frames, config.transnetv2_threshold)
        return join([*gradual, *finder.fades(cuts)], cuts)
    return finder.find(seen.candidates)


def stitch(
    transitions: Sequence[Transition],
    times_s: Sequence[float],
    end_s: float,
    max_shot_s: float,
    agree: Callable[[range, range], bool],
) -> list[Transition]:
    """The transitions without those hard cuts whose two sides show the same, after Panda-70M (arXiv 2402.19479, 3.1).

    `agree` says so of the frames between the cut and the transitions next to it. What is joined is no longer than
    `max_shot_s`, from the left.
    """
    kept: list[Transition] = []
    num_frames = len(times_s)
    starts = [0, *(transition.after for transition in transitions)]
    stops = [*(transition.first for transition in transitions), num_frames]
    for number, transition in enumerate(transitions):
        start = kept[-1].after if kept else 0
        before = range(starts[number], transition.first)
        after = range(transition.after, stops[number + 1])
        together_s = _time_at(after.stop, times_s, end_s) - times_s[start]
        is_hard = transition.first == transition.after
        if not (is_hard and together_s <= max_shot_s + 1e-6 and agree(before, after)):
            kept.append(transition)
    return kept


def shots_between(transitions: Sequence[Transition], num_frames: int) -> list[range]:
    """Runs of frame numbers, in order. No frame of a transition is in one."""
    starts = [0, *(transition.after for transition in transitions)]
    ends = [*(transition.first for transition in transitions), num_frames]
    return [range(a, b) for a, b in zip(starts, ends, strict=True) if a < b]


def split_into_clips(
    shots: Sequence[range], times_s: Sequence[float], end_s: float, config: ShotConfig
) -> list[Span]:
    """Shots as spans of time, trimmed at both ends; a long one becomes several clips.

    They are equal parts no longer than `max_clip_s`, or `stride_s` long but for the last. `times_s` holds the
    presentation time of every frame, `end_s` the end of the last one. A shot that trimming leaves nothing of is no
    clip.
    """
    clips: list[Span] = []
    for shot_index, whole in enumerate(shots):
        shot = _trimmed(whole, times_s, end_s, config)
        if not shot:
            continue
        start_s = times_s[shot.start]
        stop_s = _time_at(shot.stop, times_s, end_s)
        if config.stride_s is None:
            num_parts = max(1, int(np.ceil((stop_s - start_s) / config.max_clip_s - 1e-9)))
            part_s = (stop_s - start_s) / num_parts
        else:
            num_parts = max(1, int(np.ceil((stop_s - start_s) / config.stride_s - 1e-6)))
            part_s = config.stride_s
        # Less than any distance of two frames: times went through float.
        marks = [
            bisect_left(times_s, start_s + part_s * part - 1e-6, lo=shot.start, hi=shot.stop)
            for part in range(num_parts)
        ]
        for first, after in pairwise([*marks, shot.stop]):
            if after > first:
                end = _time_at(after, times_s, end_s)
                clips.append(Span(times_s[first], end, after - first, shot_index))
    return clips


def _trimmed(shot: range, times_s: Sequence[float], end_s: float, config: ShotConfig) -> range:
    start_s = times_s[shot.start] + config.trim_start_s
    stop_s = _time_at(shot.stop, times_s, end_s) - config.trim_end_s
    first = bisect_left(times_s, start_s - 1e-6, lo=shot.start, hi=shot.stop)
    after = shot.stop
    while after > first and _time_at(after, times_s, end_s) > stop_s + 1e-6:
        after -= 1
    return range(first, after)


def _time_at(frame: int, times_s: Sequence[float], end_s: float) -> float:
    return times_s[frame] if frame < len(times_s) else end_s


def _scene_detector(config: ShotConfig) -> AdaptiveDetector | ContentDetector | None:
    # No least length: it would let a flash hide the cut after it. Short shots are dealt with afterwards.
    if config.detector == "adaptive":
        return AdaptiveDetector(
            adaptive_threshold=config.adaptive_threshold,
            min_scene_len=1,
            min_content_val=_MIN_CONTENT_CHANGE,
        )
    if config.detector == "content":
        return ContentDetector(threshold=config.content_threshold, min_scene_len=1)
    return None


def _without_tiny_shots(
    found: Sequence[Transition], num_frames: int, min_frames: float
) -> list[Transition]:
    """Transitions that less than a shot lies between become one; so do those near the ends of the source."""
    kept: list[Transition] = []
    for transition in found:
        first = kept[-1].after if kept else 0
        if transition.first - first >= min_frames:
            kept.append(transition)
        elif kept:
            last = kept.pop()
            kept.append(Transition(last.kind, last.first, transition.after))
        else:
            kept.append(Transition(transition.kind, 0, transition.after))
    if kept and num_frames - kept[-1].after < min_frames:
        last = kept.pop()
        kept.append(Transition(last.kind, last.first, num_frames))
    return kept
