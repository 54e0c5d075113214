"""Opening a media file that nobody vouches for."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import get_ident
from typing import Any, Literal, cast

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.error import ExitError, FFmpegError
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from data_engine.errors import UnreadableSourceError
from data_engine.hdr import is_hdr, tone_mapped
from data_engine.sources.storage import SourceReader, open_source

# Playlists and concat scripts can name other files and network addresses, so only containers that hold
# their own data are tried, and no protocol but plain files; none at all where we do the reading.
_FORMATS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg"
_FILE_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
# As a frame says that it does not name its matrix.
_UNNAMED = 2
_READER_OPTIONS = {"protocol_whitelist": "none", "format_whitelist": _FORMATS}


@contextmanager
def open_video(
    location: str, num_threads: int = 0, timeout_s: float | None = None
) -> Generator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream, closed on leaving. `num_threads` 0 lets the codec choose.

    `timeout_s` bounds opening, and afterwards each packet that is read.

    Raises:
        UnreadableSourceError: out of reach, not a media file of a known kind, or it holds no video.
    """
    with open_source(location) as opened, _open_container(opened, timeout_s) as container:
        # An attached picture (cover art) is a video stream to FFmpeg and a still to everybody else.
        streams = [
            s for s in container.streams.video if not s.disposition & s.disposition.attached_pic
        ]
        if not streams:
            raise UnreadableSourceError("no_video_stream", "it has no video stream")
        stream = streams[0]
        # PyAV's types do not say so, but there is no context where FFmpeg knows no decoder.
        if cast("object", stream.codec_context) is None:
            raise UnreadableSourceError("unknown_codec", "there is no decoder for its video")
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = num_threads
        yield container, stream


def read_packets(container: InputContainer, *streams: Stream) -> "Iterator[Packet[Stream]]":
    """Packets of some streams, or of all, from here to the end; the empty ones that flush decoders come last."""
    try:
        yield from container.demux(*streams)
    except IndexError:
        # PyAV counts streams when it starts, and trips while it flushes one that appeared later, after all others.
        return


def decode_frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Frames of a stream from here to the end."""
    for packet in read_packets(container, stream):
        yield from stream.decode(packet)


def _open_container(opened: str | SourceReader, timeout_s: float | None) -> InputContainer:
    options = _FILE_OPTIONS if isinstance(opened, str) else _READER_OPTIONS
    try:
        # A title in another encoding than UTF-8 is no reason to refuse a video.
        return av.open(opened, "r", options=options, timeout=timeout_s, metadata_errors="replace")
    except ExitError as error:
        raise UnreadableSourceError("timed_out", f"not open after {timeout_s} s") from error
    except FFmpegError as error:
        # Without the path, which is of this machine.
        raise UnreadableSourceError("not_a_video", error.strerror or str(error)) from error


def display_size(stream: VideoStream, rotation_deg: int) -> tuple[int, int]:
    """Height and width in pixels as a person sees them: square pixels, upright."""
    aspect = stream.sample_aspect_ratio
    width = round(stream.width * float(aspect)) if aspect else stream.width
    return (width, stream.height) if rotation_deg % 180 else (stream.height, width)


def fit_long_side(height_px: int, width_px: int, long_side_px: int) -> tuple[int, int]:
    """Even height and width with the same aspect and at most this long side; never larger than before."""
    scale = min(1.0, long_side_px / max(height_px, width_px))
    return _even(height_px * scale), _even(width_px * scale)


def fit_short_side(height_px: int, width_px: int, short_side_px: int) -> tuple[int, int]:
    """Even height and width with the same aspect and at most this short side; never larger than before."""
    scale = min(1.0, short_side_px / min(height_px, width_px))
    return _even(height_px * scale), _even(width_px * scale)


Scaling = Literal["AREA", "FAST_BILINEAR"]
"""How FFmpeg makes pictures smaller: `FAST_BILINEAR` skips pixels, so that fine patterns turn into coarse ones."""
Pixels = NDArray[Any]
"""HxWx3 RGB as it is stored: uint8, or uint16 where the dynamic range is high."""


def upright_rgb(
    frame: VideoFrame,
    height_px: int,
    width_px: int,
    rotation_deg: int,
    scaling: Scaling = "AREA",
) -> NDArray[np.uint8]:
    """A frame as HxWx3 RGB for an ordinary screen at this display size, turned upright."""
    return for_screen(upright_pixels(frame, height_px, width_px, rotation_deg, scaling), frame)


def upright_pixels(
    frame: VideoFrame,
    height_px: int,
    width_px: int,
    rotation_deg: int,
    scaling: Scaling = "AREA",
) -> Pixels:
    """A frame at this display size, turned upright; not yet for an ordinary screen."""
    if rotation_deg % 180:
        height_px, width_px = width_px, height_px
    has_wide_range = is_hdr(int(frame.color_trc))
    scaled = _scaler(get_ident(), height_px, width_px, scaling).reformat(
        frame,
        width=width_px,
        height=height_px,
        format="rgb48le" if has_wide_range else "rgb24",
        # One that does not name its matrix would be taken for one of standard definition.
        src_colorspace=Colorspace.BT2020
        if has_wide_range and frame.colorspace == _UNNAMED
        else None,
        interpolation=scaling,
        threads=1,
    )
    # FFmpeg's angle is counter-clockwise; so is numpy's.
    return np.ascontiguousarray(np.rot90(scaled.to_ndarray(), k=rotation_deg // 90 % 4))


@lru_cache(maxsize=32)
def _scaler(thread_id: int, height_px: int, width_px: int, scaling: Scaling) -> VideoReformatter:
    """One for all frames of a size, in each thread, because it builds its tables anew when it is asked for something else.

    A frame that is asked by itself builds them each time, and starts threads of its own.
    """
    del thread_id, height_px, width_px, scaling  # of the key only
    return VideoReformatter()


def for_screen(pixels: Pixels, frame: VideoFrame) -> NDArray[np.uint8]:
    """Pixels of this frame as HxWx3 RGB for an ordinary screen."""
    transfer = int(frame.color_trc)
    if is_hdr(transfer):
        return tone_mapped(pixels.astype(np.uint16, copy=False), transfer)
    return pixels.astype(np.uint8, copy=False)


def encode_jpeg(image_rgb: NDArray[np.uint8], quality: int = 88) -> bytes:
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    assert done, "an 8-bit colour image can always be written as JPEG"
    return data.tobytes()


def decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    """HxWx3 RGB from the JPEG of a kept frame."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None, "kept frames were written by encode_jpeg"
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _even(size: float) -> int:
    return max(2, round(size / 2) * 2)
