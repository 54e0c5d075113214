"""The single decode pass of a source: shots, cheap scores and a few frames of every clip come out of it."""

import statistics
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO

import cv2
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from data_engine.config import DecodeConfig, ShotConfig
from data_engine.container import (
    decode_frames,
    decode_jpeg,
    encode_jpeg,
    fit_long_side,
    open_video,
    upright_rgb,
)
from data_engine.errors import DecodeError
from data_engine.letterbox import Margins, bars, common_margins, crop_of, dark_margins, inside
from data_engine.schema import ClipRecord, Crop, Score, SourceVideo, clip_id
from data_engine.scores import motion, pixels
from data_engine.shots import ShotDetector, Span, split_into_clips

CUT_VERSION = "+".join(
    (
        *("shots-v2", motion.BACKEND, pixels.LUMINANCE_BACKEND, pixels.SHARPNESS_BACKEND),
        *(pixels.FLICKER_BACKEND, pixels.BLACK_BACKEND),
    )
)
"""Changes with the code of the decode pass, so that its tables are made again."""

# Motion is measured over at least this long, because animation often shows each picture for two frames.
_MIN_FLOW_INTERVAL_S = 0.1
# Timestamps that run backwards or jump are a defect of the container; a source with many is not usable.
_MAX_BAD_TIMESTAMPS = 0.02
_FRAMES_PER_CLIP = 3
# Frames of a clip that are looked at again where there seem to be letterbox bars.
_FRAMES_FOR_BARS = 5


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


@dataclass(frozen=True, slots=True)
class _Sample:
    time_s: float
    luminance: float
    sharpness: float
    is_black: bool
    margins: Margins | None
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _FlowSample:
    from_s: float
    to_s: float
    flow: motion.Flow


def cut_source(
    source: SourceVideo,
    shots: ShotConfig,
    decode: DecodeConfig,
    *,
    num_threads: int = 0,
    on_progress: Callable[[float], None] = lambda _: None,
) -> CutSource:
    """Decode a source once, from its first frame to its last.

    `on_progress` is told the presentation time in seconds about once a second of video.

    Luminance and sharpness are those of the picture inside letterbox bars; motion, flicker and the share of black
    frames are those of the whole frame.

    Raises:
        DecodeError: the source stops decoding, or its timestamps are unusable.
        UnreadableSourceError: the source is gone or out of reach.
        DetectorError: the shot detector that is asked for is not installed.
    """
    with tempfile.TemporaryFile() as spool:
        watched = _Pass(source, shots, decode, spool)
        for frame, time_s in _frames(source, num_threads):
            watched.add(frame, time_s)
            if int(time_s) > int(time_s - 1 / max(source.fps, 1.0)):
                on_progress(time_s)
        return watched.finish()


def decode_span(
    location: str, start_s: float, end_s: float, num_threads: int = 0
) -> Iterator[tuple[VideoFrame, float]]:
    """The frames of a half-open span with their presentation times, by a seek to the key frame before it.

    Raises:
        DecodeError: the span does not decode.
        UnreadableSourceError: the source is gone, out of reach or no longer a video.
    """
    with open_video(location, num_threads) as (container, stream):
        time_base = stream.time_base
        assert time_base is not None, "a stream that was probed has a time base"
        try:
            container.seek(int(max(0.0, start_s) / time_base), stream=stream, backward=True)
            last_s = float("-inf")
            for frame in decode_frames(container, stream):
                # As when it was cut: a frame without a later time than the one before is not counted.
                if frame.pts is None or frame.time <= last_s:
                    continue
                last_s = frame.time
                # Half a tick of slack: times went through float.
                if frame.time < start_s - float(time_base) / 2:
                    continue
                if frame.time >= end_s - float(time_base) / 2:
                    return
                yield frame, frame.time
        except FFmpegError as error:
            raise DecodeError(f"cannot decode {start_s:.2f} to {end_s:.2f} s: {error}") from error


class _Pass:
    """What is remembered of the frames seen so far: numbers, and JPEGs on disk."""

    def __init__(
        self, source: SourceVideo, shots: ShotConfig, decode: DecodeConfig, spool: IO[bytes]
    ) -> None:
        self._source = source
        self._shots = shots
        self._detector = ShotDetector(shots, fps=source.fps or 25.0)
        self._meter = motion.MotionMeter()
        self._spool = spool
        size = (source.height_px, source.width_px)
        self._analysis_size = fit_long_side(*size, decode.analysis_long_side_px)
        self._frame_size = fit_long_side(*size, decode.frame_long_side_px)
        self._sample_interval_s = 1 / decode.frames_per_s
        self._times_s: list[float] = []
        self._luminances: list[float] = []
        self._samples: list[_Sample] = []
        self._flows: list[_FlowSample] = []
        self._next_sample_s = 0.0
        self._flow_start: tuple[float, NDArray[np.uint8]] | None = None

    def add(self, frame: VideoFrame, time_s: float) -> None:
        small_rgb = upright_rgb(frame, *self._analysis_size, self._source.rotation_deg)
        self._detector.add(cv2.cvtColor(small_rgb, cv2.COLOR_RGB2BGR).astype(np.uint8, copy=False))
        self._times_s.append(time_s)
        small_gray = _gray(small_rgb)
        self._luminances.append(pixels.luminance(small_gray))
        self._measure_flow(small_gray, time_s)
        if not self._samples or time_s >= self._next_sample_s:
            self._next_sample_s = time_s + self._sample_interval_s
            self._flow_start = (time_s, small_gray)
            self._sample(frame, time_s)

    def finish(self) -> CutSource:
        if not self._times_s:
            raise DecodeError("no frame decodes")
        num_frames = len(self._times_s)
        fps = (num_frames - 1) / max(self._times_s[-1] - self._times_s[0], 1e-6)
        end_s = self._times_s[-1] + 1 / (fps or self._source.fps or 25.0)
        spans = split_into_clips(self._detector.shots(), self._times_s, end_s, self._shots)
        clips = [self._clip(span) for span in spans]
        frames = [f for clip in clips for f in self._frames_of(clip)]
        return CutSource(clips, frames)

    def _measure_flow(self, small_gray: NDArray[np.uint8], time_s: float) -> None:
        if self._flow_start is None:
            return
        from_s, before = self._flow_start
        if time_s - from_s >= _MIN_FLOW_INTERVAL_S:
            flow = self._meter.measure(before, small_gray, time_s - from_s)
            self._flows.append(_FlowSample(from_s, time_s, flow))
            self._flow_start = None

    def _sample(self, frame: VideoFrame, time_s: float) -> None:
        image = upright_rgb(frame, *self._frame_size, self._source.rotation_deg)
        gray = _gray(image)
        jpeg = encode_jpeg(image)
        sample = _Sample(
            time_s,
            pixels.luminance(gray),
            pixels.sharpness(gray),
            pixels.is_black(gray),
            dark_margins(gray),
            self._spool.tell(),
            len(jpeg),
        )
        self._spool.write(jpeg)
        self._samples.append(sample)

    def _samples_in(self, start_s: float, end_s: float) -> Sequence[_Sample]:
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

    def _without_bars(self, samples: Sequence[_Sample]) -> tuple[Crop | None, list[_Sample]]:
        """The picture inside letterbox bars and samples of it alone; None and nothing if there are no bars."""
        margins = common_margins([sample.margins for sample in samples], self._frame_size)
        if margins is None:
            return None, []
        chosen = _spread(samples, _FRAMES_FOR_BARS)
        grays = [_gray(decode_jpeg(self._read(sample))) for sample in chosen]
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

    def _pixel_scores(self, samples: Sequence[_Sample]) -> dict[str, Score]:
        if not samples:
            return {}
        luminance = statistics.median(sample.luminance for sample in samples)
        sharpness = statistics.median(sample.sharpness for sample in samples)
        return {
            "luminance": Score(value=luminance, backend=pixels.LUMINANCE_BACKEND),
            "sharpness": Score(value=sharpness, backend=pixels.SHARPNESS_BACKEND),
        }

    def _light_scores(self, span: Span, samples: Sequence[_Sample]) -> dict[str, Score]:
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
        for sample in _spread(samples, _FRAMES_PER_CLIP):
            yield KeptFrame(clip.clip_id, sample.time_s, self._read(sample))

    def _read(self, sample: _Sample) -> bytes:
        self._spool.seek(sample.offset)
        return self._spool.read(sample.size_bytes)


def _spread(samples: Sequence[_Sample], count: int) -> list[_Sample]:
    """At most so many samples, from the first to the last."""
    last = len(samples) - 1
    places = sorted({round(last * i / (count - 1)) for i in range(count)})
    return [samples[i] for i in places] if samples else []


def _frames(source: SourceVideo, num_threads: int) -> Iterator[tuple[VideoFrame, float]]:
    """Frames in order of presentation; a few without a usable time are dropped, many are an error."""
    last_s = float("-inf")
    num_good = num_bad = 0
    with open_video(source.location, num_threads) as (container, stream):
        try:
            for frame in decode_frames(container, stream):
                if frame.pts is None or frame.time <= last_s:
                    num_bad += 1
                    continue
                last_s = frame.time
                num_good += 1
                yield frame, frame.time
        except FFmpegError as error:
            raise DecodeError(f"decoding stopped after {max(last_s, 0):.2f} s: {error}") from error
    if num_bad > _MAX_BAD_TIMESTAMPS * (num_good + num_bad):
        raise DecodeError(f"{num_bad} of {num_good + num_bad} frames have no increasing timestamp")


def _gray(image_rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)
