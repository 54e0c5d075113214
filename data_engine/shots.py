"""Where shots begin and end, and how shots become clips.

The only module that knows PySceneDetect, whose "scene" is what everybody else calls a shot. Its detectors propose
cuts, or `transnet.py` does; `transitions.py` checks them and finds what is gradual. All of them see frame numbers;
times come from our own list of presentation times, so variable frame rates stay exact.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector

from data_engine.config import ShotConfig
from data_engine.transitions import Transition, TransitionFinder, join, thumbnail

if TYPE_CHECKING:
    from data_engine.transnet import TransNetDetector

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


class ShotDetector:
    """Takes every frame of a source in order; afterwards says which runs of frames are shots.

    Raises:
        DetectorError: `config.detector` needs a package that is not installed.
    """

    def __init__(self, config: ShotConfig, fps: float) -> None:
        self._config = config
        self._fps = fps
        self._num_frames = 0
        self._thumbnails: list[NDArray[np.uint8]] = []
        self._scene_detector = _scene_detector(config)
        self._network = _network(config)
        self._candidates: set[int] = set()

    def add(self, frame_bgr: NDArray[np.uint8]) -> None:
        """The next frame, HxWx3, at the size for analysis."""
        if self._config.detector != "none":
            self._thumbnails.append(thumbnail(frame_bgr))
        if self._scene_detector is not None:
            timecode = FrameTimecode(self._num_frames, fps=self._fps)
            cuts = self._scene_detector.process_frame(timecode, frame_bgr)
            self._candidates.update(cut.frame_num for cut in cuts)
        if self._network is not None:
            self._network.add(frame_bgr)
        self._num_frames += 1

    def transitions(self) -> list[Transition]:
        """Cuts, fades and dissolves in order; runs of frames too short for a shot are part of them."""
        if self._config.detector == "none" or self._num_frames == 0:
            return []
        finder = TransitionFinder(np.stack(self._thumbnails), self._fps, self._config)
        if self._network is None:
            found = finder.find(sorted(self._candidates))
        else:
            cuts, gradual = self._network.finish()
            found = join([*gradual, *finder.fades(cuts)], cuts)
        return _without_tiny_shots(found, self._num_frames, self._config.min_shot_s * self._fps)

    def shots(self) -> list[range]:
        """Runs of frame numbers, in order. No frame of a transition is in one."""
        found = self.transitions()
        starts = [0, *(transition.after for transition in found)]
        ends = [*(transition.first for transition in found), self._num_frames]
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


def _network(config: ShotConfig) -> "TransNetDetector | None":
    if config.detector != "transnetv2":
        return None
    # Here, because it loads torch, which no other detector needs.
    from data_engine.transnet import TransNetDetector

    return TransNetDetector(config.transnetv2_threshold)


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
