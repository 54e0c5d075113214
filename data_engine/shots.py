"""Where shots begin and end, and how shots become clips.

The only module that knows PySceneDetect, whose "scene" is what everybody else calls a shot. Its detectors see
frame numbers; times come from our own list of presentation times, so variable frame rates stay exact.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector, ThresholdDetector

from data_engine.config import ShotConfig

# How far a fade may reach beyond its dark frames, and the least change of mean luma per frame inside it.
_MAX_FADE_S = 2.0
_MIN_FADE_STEP = 0.4


@dataclass(frozen=True, slots=True)
class Span:
    """A run of frames on the timeline of a source: half-open, in seconds, with its number of frames."""

    start_s: float
    end_s: float
    num_frames: int

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


class ShotDetector:
    """Takes every frame of a source in order; afterwards says which runs of frames are shots."""

    def __init__(self, config: ShotConfig, fps: float) -> None:
        self._config = config
        self._fps = fps
        min_shot_frames = max(1, round(config.min_shot_s * fps))
        self._hard = (
            AdaptiveDetector(
                adaptive_threshold=config.adaptive_threshold, min_scene_len=min_shot_frames
            )
            if config.detector == "adaptive"
            else ContentDetector(threshold=config.content_threshold, min_scene_len=min_shot_frames)
        )
        self._fades = ThresholdDetector(
            threshold=config.fade_luma, min_scene_len=1, add_final_scene=True
        )
        self._luma: list[float] = []
        self._cuts: set[int] = set()
        self._fade_cuts: set[int] = set()

    def add(self, frame_bgr: NDArray[np.uint8]) -> None:
        timecode = FrameTimecode(len(self._luma), fps=self._fps)
        # ThresholdDetector uses the mean of all channels; the same number finds the ends of the fade below.
        self._luma.append(float(frame_bgr.mean()))
        self._cuts.update(cut.frame_num for cut in self._hard.process_frame(timecode, frame_bgr))
        if self._config.fade_luma > 0:
            fades = self._fades.process_frame(timecode, frame_bgr)
            self._fade_cuts.update(cut.frame_num for cut in fades)

    def shots(self) -> list[range]:
        """Runs of frame numbers, in order, none of them part of a cut's or a fade's other side."""
        num_frames = len(self._luma)
        if num_frames == 0:
            return []
        last = FrameTimecode(num_frames - 1, fps=self._fps)
        cuts = self._cuts | {cut.frame_num for cut in self._hard.post_process(last)}
        in_fade = np.zeros(num_frames, bool)
        for first, end in self._fade_runs(last):
            in_fade[first:end] = True
        edges = sorted({0, *cuts, *_changes(in_fade), num_frames})
        return [range(a, b) for a, b in pairwise(edges) if not in_fade[a]]

    def _fade_runs(self, last: FrameTimecode) -> list[tuple[int, int]]:
        if self._config.fade_luma <= 0:
            return []
        cuts = self._fade_cuts | {cut.frame_num for cut in self._fades.post_process(last)}
        if self._luma[0] < self._config.fade_luma:
            cuts.add(0)
        return [self._fade_around(cut) for cut in cuts]

    def _fade_around(self, cut: int) -> tuple[int, int]:
        """The frames of a fade: the dark ones around `cut`, and the ramps at both sides."""
        luma, dark = self._luma, self._config.fade_luma
        reach = round(_MAX_FADE_S * self._fps)
        first = end = min(cut, len(luma) - 1)
        while first > 0 and luma[first - 1] < dark:
            first -= 1
        while end < len(luma) and luma[end] < dark:
            end += 1
        ramp_start, ramp_end = first, end
        while (
            ramp_start > 0
            and first - ramp_start < reach
            and luma[ramp_start - 1] - luma[ramp_start] > _MIN_FADE_STEP
        ):
            ramp_start -= 1
        while (
            0 < ramp_end < len(luma) - 1
            and ramp_end - end < reach
            and luma[ramp_end + 1] - luma[ramp_end] > _MIN_FADE_STEP
        ):
            ramp_end += 1
        return ramp_start, ramp_end


def split_into_clips(
    shots: Sequence[range], times_s: Sequence[float], end_s: float, max_clip_s: float
) -> list[Span]:
    """Shots as spans of time; a shot longer than `max_clip_s` becomes equal parts.

    `times_s` holds the presentation time of every frame, `end_s` the end of the last one.
    """
    clips: list[Span] = []
    for shot in shots:
        start_s = times_s[shot.start]
        stop_s = times_s[shot.stop] if shot.stop < len(times_s) else end_s
        num_parts = max(1, int(np.ceil((stop_s - start_s) / max_clip_s - 1e-9)))
        marks = [
            bisect_left(times_s, start_s + (stop_s - start_s) * part / num_parts)
            for part in range(num_parts)
        ]
        for first, after in pairwise([*marks, shot.stop]):
            part_end_s = times_s[after] if after < len(times_s) else end_s
            if after > first:
                clips.append(Span(times_s[first], part_end_s, after - first))
    return clips


def _changes(flags: NDArray[np.bool_]) -> list[int]:
    return [int(i) + 1 for i in np.flatnonzero(flags[1:] != flags[:-1])]
