"""The facts of a source video, read from its container, its first packets and its last ones."""

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import av
from av.container import InputContainer
from av.error import ExitError, FFmpegError
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from data_engine.config import ProbeConfig
from data_engine.container import display_size, open_video, read_packets
from data_engine.errors import UnreadableSourceError
from data_engine.schema import SourceVideo
from data_engine.sources import SourceFile
from data_engine.sources.storage import content_id, is_remote

_NUM_HEAD_PACKETS = 300
# Packets come in order of decoding: times from the end of the head may still miss some of their neighbours.
_MAX_REORDERED = 16
# A frame further than this share of the mean interval from an even grid makes the rate variable. Phones and
# containers that count in milliseconds stay below it; a single dropped frame does not.
_MAX_UNEVENNESS = 0.2
# Containers round, and a sound or a subtitle may end later than the pictures.
_MIN_MISSING_S = 2.0
_MIN_MISSING_SHARE = 0.02
_TAIL_S = 1.0
# Of these the header says how long the video is; of the others FFmpeg guesses from the bytes that are there.
_PROMISING = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv"})
# As FFmpeg calls the transfer characteristics of ITU-T H.273.
_COLOUR_TRANSFERS = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    9: "log100",
    10: "log316",
    11: "iec61966-2-4",
    12: "bt1361e",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    17: "smpte428",
    18: "arib-std-b67",
}


@dataclass(slots=True)
class _Times:
    """Where packets lie in time, in seconds."""

    starts_s: list[float] = field(default_factory=list[float])
    """Of the video, in order of decoding."""
    video_end_s: float | None = None
    end_s: float | None = None
    """Of all streams."""

    def add(self, packet: "Packet[Stream]", stream: VideoStream) -> None:
        # Some containers time the decoding only.
        ticks = packet.dts if packet.pts is None else packet.pts
        if ticks is None:
            return
        start_s = float(ticks * packet.time_base)
        end_s = start_s + float((packet.duration or 0) * packet.time_base)
        self.end_s = end_s if self.end_s is None else max(self.end_s, end_s)
        if packet.stream_index == stream.index:
            self.starts_s.append(start_s)
            before = self.video_end_s
            self.video_end_s = end_s if before is None else max(before, end_s)


def probe(source: SourceFile, config: ProbeConfig) -> SourceVideo:
    """What the container says of a source, checked against its packets; its first frame must decode.

    Only the first frame is decoded, and only both ends of the file are read, except by the hash.

    Raises:
        UnreadableSourceError: missing, empty, not a video, corrupt, truncated, or over a limit of `config`.
        SourceError: the package for its kind of URL is not installed.
    """
    try:
        return _probe(source, config)
    except UnreadableSourceError as error:
        # A disk is as fast as it will ever be; a bucket may have a bad day.
        if error.reason == "timed_out" and is_remote(source.location):
            raise UnreadableSourceError("unreachable", error.detail) from error
        raise


def _probe(source: SourceFile, config: ProbeConfig) -> SourceVideo:
    _check_size(source.size_bytes, config)
    deadline_s = time.monotonic() + config.max_probe_s
    with (
        open_video(source.location, timeout_s=config.max_probe_s) as (container, stream),
        _undecodable(),
    ):
        _check_pixels(stream.width, stream.height, config)
        frame, head = _read_head(container, stream, deadline_s)
        _check_pixels(frame.width, frame.height, config)
        duration_s = _duration_s(container, stream, head, deadline_s)
        if duration_s > config.max_duration_s:
            raise UnreadableSourceError(
                "too_long", f"{duration_s:.0f} s is over the limit of {config.max_duration_s:.0f} s"
            )
        fps, is_variable = _rate(stream, head.starts_s, duration_s)
        height_px, width_px = display_size(stream, frame.rotation)
        return SourceVideo(
            # Last, because it reads all: what was refused above is not read in full.
            source_id=content_id(source.location),
            uri=source.uri,
            location=source.location,
            other_uris=source.other_uris,
            size_bytes=source.size_bytes,
            codec=stream.codec_context.name,
            height_px=height_px,
            width_px=width_px,
            sample_aspect_ratio=float(stream.sample_aspect_ratio or 1),
            rotation_deg=frame.rotation % 360,
            fps=fps,
            is_variable_rate=is_variable,
            colour_transfer=_COLOUR_TRANSFERS.get(int(frame.color_trc)),
            has_audio=bool(container.streams.audio),
            duration_s=duration_s,
            attribution=source.attribution,
            captions=source.captions,
            metadata=source.metadata,
        )


def merge_copies(sources: Iterable[SourceVideo]) -> list[SourceVideo]:
    """One source for each content: the first by name, with the names and the texts of the others."""
    merged: dict[str, SourceVideo] = {}
    for source in sorted(sources, key=lambda source: source.uri):
        first = merged.get(source.source_id)
        if first is not None:
            source = replace(
                first,
                other_uris=(*first.other_uris, source.uri, *source.other_uris),
                attribution=first.attribution or source.attribution,
                captions=tuple(dict.fromkeys((*first.captions, *source.captions))),
                metadata={**source.metadata, **first.metadata},
            )
        merged[source.source_id] = source
    return list(merged.values())


def _check_size(size_bytes: int, config: ProbeConfig) -> None:
    if size_bytes == 0:
        raise UnreadableSourceError("empty", "the file has no bytes")
    if size_bytes > config.max_size_bytes:
        raise UnreadableSourceError(
            "too_large", f"{size_bytes} bytes are over the limit of {config.max_size_bytes}"
        )


def _check_pixels(width_px: int, height_px: int, config: ProbeConfig) -> None:
    if width_px * height_px > config.max_pixels:
        raise UnreadableSourceError(
            "too_large", f"{width_px}x{height_px} is over {config.max_pixels} pixels"
        )


@contextmanager
def _undecodable() -> Generator[None]:
    try:
        yield
    except ExitError as error:
        raise UnreadableSourceError("timed_out", "a packet took too long to read") from error
    except FFmpegError as error:
        detail = f"no frame decodes: {error.strerror or error}"
        raise UnreadableSourceError("undecodable", detail) from error


def _packets(container: InputContainer, deadline_s: float) -> "Iterator[Packet[Stream]]":
    """Packets from here to the end, the empty ones that flush the decoders included."""
    for packet in read_packets(container):
        if time.monotonic() > deadline_s:
            raise UnreadableSourceError("timed_out", "its packets take too long to read")
        yield packet


def _read_head(
    container: InputContainer, stream: VideoStream, deadline_s: float
) -> tuple[VideoFrame, _Times]:
    """The first frame, and when the first packets are."""
    times = _Times()
    first: VideoFrame | None = None
    for packet in _packets(container, deadline_s):
        times.add(packet, stream)
        if first is None and packet.stream_index == stream.index:
            first = next(iter(stream.decode(packet)), None)
        if len(times.starts_s) >= _NUM_HEAD_PACKETS:
            break
    if first is None:
        raise UnreadableSourceError("undecodable", "no frame decodes")
    return first, times


def _duration_s(
    container: InputContainer, stream: VideoStream, head: _Times, deadline_s: float
) -> float:
    """By the times of the packets, which are also held against what the container promises."""
    assert stream.time_base is not None, "a stream with packets has a time base"
    start_s = min(head.starts_s, default=0.0)
    promised_s = None if container.duration is None else container.duration / av.time_base
    if stream.duration is not None:
        promised_s = float(stream.duration * stream.time_base)
    tail = replace(head, starts_s=list(head.starts_s))
    if promised_s is not None:
        # Without an index there is no way but to read on from here.
        with suppress(FFmpegError):
            target_s = max(start_s, start_s + promised_s - _TAIL_S)
            container.seek(int(target_s / stream.time_base), stream=stream)
    for packet in _packets(container, deadline_s):
        tail.add(packet, stream)
    if tail.video_end_s is None or tail.end_s is None:
        raise UnreadableSourceError("undecodable", "its packets have no times")
    if promised_s is not None and container.format.name in _PROMISING:
        # Where only the container promises, the sound may be what lasts so long.
        end_s = tail.end_s if stream.duration is None else tail.video_end_s
        missing_s = promised_s - (end_s - start_s)
        if missing_s > max(_MIN_MISSING_S, _MIN_MISSING_SHARE * promised_s):
            raise UnreadableSourceError(
                "truncated",
                f"the container promises {promised_s:.1f} s, and {missing_s:.1f} s are missing",
            )
    if tail.video_end_s > max(tail.starts_s):
        return tail.video_end_s - start_s
    # Some containers do not say how long a frame lasts: as long as the others.
    return tail.video_end_s - start_s + _mean_interval_s(head.starts_s)


def _rate(stream: VideoStream, starts_s: Sequence[float], duration_s: float) -> tuple[float, bool]:
    """Frames a second over the file, and whether the rate varies; the packets are believed, not the header."""
    interval_s = _mean_interval_s(starts_s)
    named = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    if interval_s == 0:
        return (named or [1 / duration_s if duration_s else 0.0])[0], False
    times_s = _settled(starts_s)
    grid = (times_s[0] + i * interval_s for i in range(len(times_s)))
    uneven_s = max(abs(a - b) for a, b in zip(times_s, grid, strict=True))
    tick_s = float(stream.time_base or 0)
    if uneven_s > max(_MAX_UNEVENNESS * interval_s, 1.5 * tick_s):
        return (stream.frames / duration_s if stream.frames else 1 / interval_s), True
    # The header gives 30000/1001 in full, where it agrees.
    return next((r for r in named if abs(r * interval_s - 1) < 0.01), 1 / interval_s), False


def _settled(starts_s: Sequence[float]) -> list[float]:
    """Times in order, without those that may still miss a neighbour."""
    times_s = sorted(set(starts_s))
    return times_s[:-_MAX_REORDERED] if len(starts_s) >= _NUM_HEAD_PACKETS else times_s


def _mean_interval_s(starts_s: Sequence[float]) -> float:
    times_s = _settled(starts_s)
    return (times_s[-1] - times_s[0]) / (len(times_s) - 1) if len(times_s) > 1 else 0.0
