"""The single decode pass of a source: shots, cheap scores and a few frames of every clip come out of it.

`parts.py` makes the same of a long source in parts that are decoded apart.
"""

import math
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import chain
from pathlib import Path
from typing import Any

from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from data_engine import hdr
from data_engine.clips import CutSource, Similarity, clips_of
from data_engine.config import DecodeConfig, ShotConfig
from data_engine.container import open_video, read_packets
from data_engine.errors import DecodeError, IndivisibleError
from data_engine.observing import Observer
from data_engine.schema import SourceVideo
from data_engine.scores import motion, pixels

CUT_VERSION = "+".join(
    (
        *(
            "shots-v4",
            hdr.BACKEND,
            motion.BACKEND,
            pixels.LUMINANCE_BACKEND,
            pixels.SHARPNESS_BACKEND,
        ),
        *(pixels.FLICKER_BACKEND, pixels.BLACK_BACKEND),
    )
)
"""Changes with the code of the decode pass, so that its tables are made again."""

# Timestamps that run backwards or jump are a defect of the container; a source with many is not usable.
_MAX_BAD_TIMESTAMPS = 0.02
_MAX_DAMAGED = 0.5
# A seek aims so far before a span, until it leads to its first frame.
_LEADS_S = (0.0, 1.0, 8.0, 60.0)
# A network abstraction layer unit of an IDR picture (ITU-T H.264, 7.4.1).
_RESETS = re.compile(rb"\x00\x00\x01[\x25\x45\x65]")


def cut_source(
    source: SourceVideo,
    shots: ShotConfig,
    decode: DecodeConfig,
    *,
    num_threads: int = 0,
    on_progress: Callable[[float], None] = lambda _: None,
    similarity: Similarity | None = None,
) -> CutSource:
    """Decode a source once, from its first frame to its last.

    `on_progress` is told the presentation time in seconds about once a second of video. `similarity` is needed for
    `shots.stitch_similarity`.

    Raises:
        DecodeError: the source stops decoding, or its timestamps are unusable.
        UnreadableSourceError: the source is gone or out of reach.
        DetectorError: the shot detector that is asked for is not installed.
    """
    last_s = 0.0
    with (
        tempfile.TemporaryDirectory() as folder,
        Observer(source, shots, decode, Path(folder)) as observer,
    ):
        with open_video(source.location, num_threads) as (container, stream):
            frames = FramesInOrder(container, stream)
            for timed in frames:
                last_s = timed.time_s
                observer.add(timed.frame, last_s, is_damaged=timed.is_damaged)
                if is_new_second(last_s, source):
                    on_progress(last_s)
        observed = observer.observed()
        num_frames = len(observed.times_s)
        check_timestamps(frames.num_bad, num_frames)
        check_damage(len(observed.damaged) + frames.num_lost, num_frames + frames.num_lost)
        return clips_of(source, shots, decode, [observed], lambda: on_progress(last_s), similarity)


def decode_span(
    location: str, start_s: float, end_s: float, num_threads: int = 0
) -> Iterator[tuple[VideoFrame, float]]:
    """The frames of a half-open span with their presentation times.

    It seeks to the key frame before it; where that leads to a later place or to a frame that cannot be had from there,
    further back, and at last nowhere.

    Raises:
        DecodeError: the span does not decode.
        UnreadableSourceError: the source is gone, out of reach or no longer a video.
    """
    for lead_s in (*_LEADS_S, math.inf):
        with open_video(location, num_threads) as (container, stream):
            assert stream.time_base is not None, "a stream that was probed has a time base"
            # Half a tick of slack: times went through float.
            slack_s = float(stream.time_base) / 2
            if not _seek(container, stream, start_s - lead_s):
                continue
            frames = iter(FramesInOrder(container, stream))
            try:
                first = next((f for f in frames if f.time_s >= start_s - slack_s), None)
            except (IndivisibleError, DecodeError):
                if lead_s < math.inf:
                    continue
                raise
            is_it = first is not None and first.time_s <= start_s + slack_s
            if first is None or (lead_s < math.inf and (first.is_damaged or not is_it)):
                continue
            for timed in chain([first], frames):
                if timed.time_s >= end_s - slack_s:
                    return
                yield timed.frame, timed.time_s
            return


def _seek(container: InputContainer, stream: VideoStream, aim_s: float) -> bool:
    """Go to the key frame before this time; stay at the beginning if it is there. Whether that was possible."""
    assert stream.time_base is not None
    origin_s = 0.0 if stream.start_time is None else float(stream.start_time * stream.time_base)
    if aim_s > origin_s:
        try:
            container.seek(math.floor(aim_s / stream.time_base), stream=stream, backward=True)
        except FFmpegError:
            return False
    return True


@dataclass(frozen=True, slots=True)
class TimedFrame:
    """A frame with its presentation time, and where in the file it lies, if the container tells."""

    frame: VideoFrame
    time_s: float
    position: int | None
    is_damaged: bool = False
    """Whether it was decoded from damaged data, or may have been predicted from a frame that was."""


class FramesInOrder:
    """Frames with their presentation times, from where the container stands to its end.

    Those without a time, or with one that is not later than the one before, are left out and counted.

    Raises:
        DecodeError: decoding stops.
        IndivisibleError: times can only be had from the beginning of the container, and it stands elsewhere.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        self.num_bad = 0
        self.num_lost = 0
        """Packets that no decoder can make anything of. The frame after one is damaged."""

    def __iter__(self) -> Iterator[TimedFrame]:
        last_s = float("-inf")
        is_damaged = has_gap = False
        positions: dict[int | None, int | None] = {}
        ticks = _TicksInOrder() if has_times_of_decoding(self._container, self._stream) else None
        try:
            for packet in read_packets(self._container, self._stream):
                positions[packet.pts] = packet.pos
                if ticks is not None:
                    ticks.add(packet)
                num_lost = self.num_lost
                frames = self._decoded(packet)
                if self.num_lost > num_lost:
                    is_damaged = has_gap = True
                for frame in frames:
                    position = positions.pop(frame.pts, None)
                    if ticks is not None:
                        frame.pts = ticks.next()
                    is_damaged = frame.is_corrupt or (is_damaged and not frame.key_frame)
                    if frame.pts is None or frame.time <= last_s:
                        self.num_bad += 1
                        continue
                    last_s = frame.time
                    yield TimedFrame(frame, last_s, position, is_damaged or has_gap)
                    has_gap = False
        except FFmpegError as error:
            raise DecodeError(f"decoding stopped after {max(last_s, 0):.2f} s: {error}") from error

    def _decoded(self, packet: "Packet[Any]") -> list[VideoFrame]:
        try:
            return self._stream.decode(packet)
        except InvalidDataError:
            self.num_lost += 1
            return []


def has_times_of_decoding(container: InputContainer, stream: VideoStream) -> bool:
    """Whether its packets have no times of presentation: AVI holds none, and for H.264 FFmpeg does not work them out."""
    return container.format.name == "avi" and stream.codec_context.name == "h264"


class _TicksInOrder:
    """Times of presentation where packets have only those of decoding: the n-th picture has the n-th of them."""

    def __init__(self) -> None:
        self._waiting: list[int] = []
        self._has_begun = False

    def add(self, packet: "Packet[Any]") -> None:
        if packet.dts is None or not packet.size:
            return
        # Pictures before a picture that resets the decoder are never shown after it, so that one can count from there.
        if not self._has_begun and packet.dts > 0 and not _RESETS.search(bytes(packet)):
            raise IndivisibleError("the pictures of this AVI have to be counted from its beginning")
        self._has_begun = True
        heappush(self._waiting, packet.dts)

    def next(self) -> int | None:
        return heappop(self._waiting) if self._waiting else None


def check_timestamps(num_bad: int, num_good: int) -> None:
    """A few frames without a usable time are dropped, many are an error.

    Raises:
        DecodeError: there are many.
    """
    if num_bad > _MAX_BAD_TIMESTAMPS * (num_good + num_bad):
        raise DecodeError(f"{num_bad} of {num_good + num_bad} frames have no increasing timestamp")


def check_damage(num_damaged: int, num_frames: int) -> None:
    """What was damaged here and there is left out, but what is mostly damaged is an error.

    Raises:
        DecodeError: most of it is damaged.
    """
    if num_damaged > _MAX_DAMAGED * num_frames:
        raise DecodeError(f"{num_damaged} of {num_frames} frames are damaged")


def is_new_second(time_s: float, source: SourceVideo) -> bool:
    """True about once a second of video."""
    return int(time_s) > int(time_s - 1 / max(source.fps, 1.0))
