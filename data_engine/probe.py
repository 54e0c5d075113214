"""The facts of a source video, read from its container and its first frame."""

from pathlib import Path

import av
from av.error import FFmpegError

from data_engine.config import ProbeConfig
from data_engine.container import display_size, open_video
from data_engine.errors import UnreadableSourceError
from data_engine.schema import SourceVideo
from data_engine.sources import SourceFile, content_id


def probe(source: SourceFile, config: ProbeConfig) -> SourceVideo:
    """Size, rate, duration and rotation of a source; its first frame must decode.

    Raises:
        UnreadableSourceError: empty, not a video, corrupt, or over a limit of `config`.
    """
    size_bytes = _checked_size(source.path, config)
    with open_video(source.path) as (container, stream):
        try:
            frame = next(container.decode(stream))
        except (StopIteration, FFmpegError) as error:
            raise UnreadableSourceError("undecodable", f"no frame decodes: {error}") from error
        if frame.width * frame.height > config.max_pixels:
            raise UnreadableSourceError(
                "too_large", f"{frame.width}x{frame.height} is over {config.max_pixels} pixels"
            )
        duration_s = _duration_s(container.duration, stream)
        if duration_s > config.max_duration_s:
            raise UnreadableSourceError(
                "too_long", f"{duration_s:.0f} s is over the limit of {config.max_duration_s:.0f} s"
            )
        height_px, width_px = display_size(stream, frame.rotation)
        return SourceVideo(
            source_id=content_id(source.path),
            uri=source.uri,
            location=str(source.path),
            size_bytes=size_bytes,
            codec=stream.codec_context.name,
            height_px=height_px,
            width_px=width_px,
            rotation_deg=frame.rotation % 360,
            fps=float(stream.average_rate or stream.guessed_rate or 0.0),
            duration_s=duration_s,
            attribution=source.attribution,
        )


def _checked_size(path: Path, config: ProbeConfig) -> int:
    size_bytes = path.stat().st_size
    if size_bytes == 0:
        raise UnreadableSourceError("empty", "the file has no bytes")
    if size_bytes > config.max_size_bytes:
        raise UnreadableSourceError(
            "too_large", f"{size_bytes} bytes are over the limit of {config.max_size_bytes}"
        )
    return size_bytes


def _duration_s(container_us: int | None, stream: av.VideoStream) -> float:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return 0.0 if container_us is None else container_us / av.time_base
