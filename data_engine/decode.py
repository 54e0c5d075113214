"""The single decode pass of a source: shots, cheap scores and a few frames of every clip come out of it.

`parts.py` makes the same of a long source in parts that are decoded apart.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from data_engine.clips import CutSource, Similarity, clips_of
from data_engine.config import DecodeConfig, ShotConfig
from data_engine.container import decode_frames, open_video, read_packets
from data_engine.errors import DecodeError
from data_engine.observing import Observer
from data_engine.schema import SourceVideo
from data_engine.scores import motion, pixels

CUT_VERSION = "+".join(
    (
        *("shots-v3", motion.BACKEND, pixels.LUMINANCE_BACKEND, pixels.SHARPNESS_BACKEND),
        *(pixels.FLICKER_BACKEND, pixels.BLACK_BACKEND),
    )
)
"""Changes with the code of the decode pass, so that its tables are made again."""

# Timestamps that run backwards or jump are a defect of the container; a source with many is not usable.
_MAX_BAD_TIMESTAMPS = 0.02


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
                observer.add(timed.frame, last_s)
                if is_new_second(last_s, source):
                    on_progress(last_s)
        observed = observer.observed()
        check_timestamps(frames.num_bad, len(observed.times_s))
        return clips_of(source, shots, decode, [observed], lambda: on_progress(last_s), similarity)


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


@dataclass(frozen=True, slots=True)
class TimedFrame:
    """A frame with its presentation time, and where in the file it lies, if the container tells."""

    frame: VideoFrame
    time_s: float
    position: int | None


class FramesInOrder:
    """Frames with their presentation times, from where the container stands to its end.

    Those without a time, or with one that is not later than the one before, are left out and counted.

    Raises:
        DecodeError: decoding stops.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        self.num_bad = 0

    def __iter__(self) -> Iterator[TimedFrame]:
        last_s = float("-inf")
        positions: dict[int | None, int | None] = {}
        try:
            for packet in read_packets(self._container, self._stream):
                positions[packet.pts] = packet.pos
                for frame in self._stream.decode(packet):
                    position = positions.pop(frame.pts, None)
                    if frame.pts is None or frame.time <= last_s:
                        self.num_bad += 1
                        continue
                    last_s = frame.time
                    yield TimedFrame(frame, last_s, position)
        except FFmpegError as error:
            raise DecodeError(f"decoding stopped after {max(last_s, 0):.2f} s: {error}") from error


def check_timestamps(num_bad: int, num_good: int) -> None:
    """A few frames without a usable time are dropped, many are an error.

    Raises:
        DecodeError: there are many.
    """
    if num_bad > _MAX_BAD_TIMESTAMPS * (num_good + num_bad):
        raise DecodeError(f"{num_bad} of {num_good + num_bad} frames have no increasing timestamp")


def is_new_second(time_s: float, source: SourceVideo) -> bool:
    """True about once a second of video."""
    return int(time_s) > int(time_s - 1 / max(source.fps, 1.0))
