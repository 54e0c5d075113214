"""Clips of a source with the scores of the decode pass, from what was observed of its frames."""

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, count
from typing import IO

import cv2
import numpy as np
from numpy.typing import NDArray

from data_engine.config import DecodeConfig, ShotConfig
from data_engine.container import decode_jpeg, fit_long_side
from data_engine.errors import DecodeError
from data_engine.letterbox import bars, common_margins, crop_of, inside
from data_engine.network_frames import FRAME_BYTES
from data_engine.observing import Observed, Picture, Sample
from data_engine.schema import ClipRecord, Crop, Score, SourceVideo, clip_id
from data_engine.scores import motion, pixels
from data_engine.shots import (
    SeenFrames,
    Span,
    find_transitions,
    shots_between,
    split_into_clips,
    stitch,
)

# Frames of a clip that are looked at again where there seem to be letterbox bars.
_FRAMES_FOR_BARS = 5
# Between two signs of life, of a network that looks at frames: seconds on the slowest processor.
_FRAMES_PER_SIGN = 100


@dataclass(frozen=True, slots=True)
class KeptFrame:
    """A frame of a clip, small enough to be stored: JPEG of the size `decode.frame_long_side_px`."""

    clip_id: str
    time_s: float
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class CutSource:
    """Every clip of a source with the scores of the decode pass, and a few frames of each."""

    clips: list[ClipRecord]
    frames: list[KeptFrame]
    num_damaged: int = 0
    """Frames that are in no clip because they do not show what the source once held."""


Similarity = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]
"""The cosine of what two frames (HxWx3 RGB) show."""


def clips_of(
    source: SourceVideo,
    shots: ShotConfig,
    decode: DecodeConfig,
    runs: Sequence[Observed],
    still_alive: Callable[[], None] = lambda: None,
    similarity: Similarity | None = None,
) -> CutSource:
    """Cut a source whose frames, all of them and each once, were observed in these runs.

    `still_alive` is called every so often where a network takes long. `similarity` is needed for
    `shots.stitch_similarity`.

    Luminance and sharpness are those of the picture inside letterbox bars; motion, flicker and the share of black
    frames are those of the whole frame.

    Raises:
        DecodeError: there are no frames.
    """
    with _Pictures(runs) as pictures:
        return _Source(source, decode, runs, pictures).cut(shots, still_alive, similarity)


class _Pictures:
    """The pictures of several runs, as if they lay in one file."""

    def __init__(self, runs: Sequence[Observed]) -> None:
        sizes = [run.pictures.stat().st_size for run in runs]
        self.starts = list(accumulate(sizes, initial=0))[:-1]
        self._paths = [run.pictures for run in runs]
        self._open: list[IO[bytes]] = []
        self._stack = ExitStack()

    def __enter__(self) -> "_Pictures":
        self._open = [self._stack.enter_context(path.open("rb")) for path in self._paths]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, picture: Picture) -> bytes:
        run = bisect_right(self.starts, picture.offset) - 1
        self._open[run].seek(picture.offset - self.starts[run])
        return self._open[run].read(picture.size_bytes)


class _Source:
    """All that was observed of a source, on one timeline."""

    def __init__(
        self,
        source: SourceVideo,
        decode: DecodeConfig,
        runs: Sequence[Observed],
        pictures: _Pictures,
    ) -> None:
        self._source = source
        self._runs = runs
        self._pictures = pictures
        size = (source.height_px, source.width_px)
        self._frame_size = fit_long_side(*size, decode.frame_long_side_px)
        self._frames_per_clip = decode.frames_per_clip
        self._times_s: list[float] = np.concatenate([run.times_s for run in runs]).tolist()
        self._luminances: list[float] = np.concatenate([run.luminances for run in runs]).tolist()
        self._samples = [
            replace(sample, picture=_moved(sample.picture, start))
            for run, start in zip(runs, pictures.starts, strict=True)
            for sample in run.samples
        ]
        self._flows = [flow for run in runs for flow in run.flows]

    def cut(
        self, shots: ShotConfig, still_alive: Callable[[], None], similarity: Similarity | None
    ) -> CutSource:
        if not self._times_s:
            raise DecodeError("no frame decodes")
        source_fps = self._source.fps or 25.0
        found = find_transitions(self._seen(still_alive), source_fps, shots)
        num_frames = len(self._times_s)
        fps = (num_frames - 1) / max(self._times_s[-1] - self._times_s[0], 1e-6)
        end_s = self._times_s[-1] + 1 / (fps or source_fps)
        if shots.stitch_similarity is not None:
            assert similarity is not None, "whoever asks for stitching says what is alike"
            agree = partial(self._agree, similarity, shots.stitch_similarity)
            found = stitch(found, self._times_s, end_s, shots.max_clip_s, agree)
            still_alive()
        runs = shots_between(found, num_frames)
        clips = [self._clip(s) for s in split_into_clips(runs, self._times_s, end_s, shots)]
        num_damaged = sum(len(run.damaged) for run in self._runs)
        return CutSource(clips, [f for clip in clips for f in self._frames_of(clip)], num_damaged)

    def _seen(self, still_alive: Callable[[], None]) -> SeenFrames:
        starts = list(accumulate((len(run.times_s) for run in self._runs), initial=0))
        placed = list(zip(starts, self._runs, strict=False))
        return SeenFrames(
            num_frames=len(self._times_s),
            thumbnails=np.concatenate([run.thumbnails for run in self._runs]),
            candidates=[start + number for start, run in placed for number in run.candidates],
            damaged=[start + number for start, run in placed for number in run.damaged],
            network_frames=_network_frames(self._runs, still_alive),
        )

    def _agree(
        self, similarity: Similarity, min_similarity: float, before: range, after: range
    ) -> bool:
        """Whether the last sample of some frames and the first of others show the same; not if there is none."""
        if not before or not after:
            return False
        first_s, cut_s, last_s = (self._times_s[t] for t in (before.start, after.start, after[-1]))
        earlier = self._samples_in(first_s, cut_s)
        later = self._samples_in(cut_s, math.nextafter(last_s, math.inf))
        if not earlier or not later:
            return False
        one, other = (
            decode_jpeg(self._pictures.read(sample.picture)) for sample in (earlier[-1], later[0])
        )
        return similarity(one, other) >= min_similarity

    def _samples_in(self, start_s: float, end_s: float) -> Sequence[Sample]:
        first = bisect_left(self._samples, start_s, key=lambda sample: sample.time_s)
        after = bisect_left(self._samples, end_s, key=lambda sample: sample.time_s)
        return self._samples[first:after]

    def _flows_in(self, start_s: float, end_s: float) -> list[motion.Flow]:
        first = bisect_left(self._flows, start_s, key=lambda sample: sample.from_s)
        return [
            sample.flow
            for sample in self._flows[first : bisect_left(self._flows, end_s, key=lambda s: s.to_s)]
        ]

    def _clip(self, span: Span) -> ClipRecord:
        source = self._source
        samples = self._samples_in(span.start_s, span.end_s)
        crop, inner = self._without_bars(samples)
        return ClipRecord(
            clip_id=clip_id(source.source_id, span.start_s, span.end_s),
            source_id=source.source_id,
            source_uri=source.uri,
            start_s=span.start_s,
            end_s=span.end_s,
            fps=span.num_frames / span.duration_s,
            num_frames=span.num_frames,
            shot_index=span.shot_index,
            height_px=source.height_px,
            width_px=source.width_px,
            crop=crop,
            scores={
                **self._pixel_scores(inner or samples),
                **self._light_scores(span, samples),
                **self._motion_scores(span),
            },
            attribution=source.attribution,
            metadata=source.metadata,
            captions=source.original_captions(),
        )

    def _without_bars(self, samples: Sequence[Sample]) -> tuple[Crop | None, list[Sample]]:
        """The picture inside letterbox bars and samples of it alone; None and nothing if there are no bars."""
        margins = common_margins([sample.margins for sample in samples], self._frame_size)
        if margins is None:
            return None, []
        chosen = _spread(samples, _FRAMES_FOR_BARS)
        grays = [_gray(decode_jpeg(self._pictures.read(s.picture))) for s in chosen]
        found = bars(margins, grays)
        if found is None:
            return None, []
        source_size = (self._source.height_px, self._source.width_px)
        pictures = [inside(gray, found) for gray in grays]
        inner = [
            replace(s, luminance=pixels.luminance(gray), sharpness=pixels.sharpness(gray))
            for s, gray in zip(chosen, pictures, strict=True)
        ]
        return crop_of(found, self._frame_size, source_size), inner

    def _pixel_scores(self, samples: Sequence[Sample]) -> dict[str, Score]:
        if not samples:
            return {}
        luminance = statistics.median(sample.luminance for sample in samples)
        sharpness = statistics.median(sample.sharpness for sample in samples)
        return {
            "luminance": Score(value=luminance, backend=pixels.LUMINANCE_BACKEND),
            "sharpness": Score(value=sharpness, backend=pixels.SHARPNESS_BACKEND),
        }

    def _light_scores(self, span: Span, samples: Sequence[Sample]) -> dict[str, Score]:
        scores: dict[str, Score] = {}
        first = bisect_left(self._times_s, span.start_s)
        after = bisect_left(self._times_s, span.end_s)
        flicker = pixels.flicker(self._luminances[first:after])
        if flicker is not None:
            scores["flicker"] = Score(value=flicker, backend=pixels.FLICKER_BACKEND)
        if samples:
            share = statistics.fmean(sample.is_black for sample in samples)
            scores["black_share"] = Score(value=share, backend=pixels.BLACK_BACKEND)
        return scores

    def _motion_scores(self, span: Span) -> dict[str, Score]:
        scores: dict[str, Score] = {}
        flows = self._flows_in(span.start_s, span.end_s)
        if flows:
            speeds = [flow.speed for flow in flows]
            for name, percent in (("motion_p10", 10), ("motion_p90", 90)):
                value = float(np.percentile(speeds, percent))
                scores[name] = Score(value=value, backend=motion.BACKEND)
            for name, values in (
                ("motion", speeds),
                ("camera_motion", [flow.camera for flow in flows]),
                ("foreground_motion", [flow.foreground for flow in flows]),
                ("camera_right", [flow.right for flow in flows]),
                ("camera_down", [flow.down for flow in flows]),
                ("camera_outwards", [flow.outwards for flow in flows]),
            ):
                scores[name] = Score(value=statistics.median(values), backend=motion.BACKEND)
        return scores

    def _frames_of(self, clip: ClipRecord) -> Iterator[KeptFrame]:
        samples = self._samples_in(clip.start_s, clip.end_s)
        for sample in _spread(samples, self._frames_per_clip):
            yield KeptFrame(clip.clip_id, sample.time_s, self._pictures.read(sample.picture))


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most so many samples, from the first to the last."""
    last = len(samples) - 1
    places = sorted({round(last * i / (count - 1)) for i in range(count)})
    return [samples[i] for i in places] if samples else []


def _moved(picture: Picture, start: int) -> Picture:
    return Picture(start + picture.offset, picture.size_bytes)


def _network_frames(runs: Sequence[Observed], still_alive: Callable[[], None]) -> Iterator[bytes]:
    for run in runs:
        with run.network_frames.open("rb") as file:
            for number in count():
                if not (frame := file.read(FRAME_BYTES)):
                    break
                yield frame
                if number % _FRAMES_PER_SIGN == 0:
                    still_alive()


def _gray(image_rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)
