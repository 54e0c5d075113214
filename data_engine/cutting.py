"""One clip of a source, encoded for training: H.264 in MP4, the same bytes for the same input."""

import io
from fractions import Fraction

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc
from numpy.typing import NDArray

from data_engine import hdr
from data_engine.buckets import encoded_size
from data_engine.config import ShardConfig
from data_engine.container import for_screen, upright_pixels, upright_rgb
from data_engine.decode import decode_span
from data_engine.errors import DecodeError
from data_engine.schema import ClipRecord
from data_engine.stream_copy import copy_clip

ENCODER_VERSION = f"x264-veryfast-v4+{hdr.BACKEND}"
"""Changes with everything below that changes the bytes of a clip."""

# The matrix of ITU-R BT.601, as ITU-T H.273 counts them.
_SMPTE170M = 6
# Fine enough for every frame rate in use, and what MPEG has always used.
_TIME_BASE = Fraction(1, 90_000)
# One thread: the bytes do not depend on the number of cores. SSE4.2: the same bytes on every x86 machine; with AVX-512
# one run in a hundred differed (docs/log.md).
_SAME_BYTES = {"preset": "veryfast", "threads": "1", "x264-params": "asm=SSE4.2"}


def encode_clip(
    record: ClipRecord, location: str, config: ShardConfig, num_threads: int = 0
) -> bytes:
    """The frames of the clip at training size, with the timing of the source.

    Letterbox bars are left out. What must be encoded has a key frame every second; where the packets of the source are
    just these frames at this size, they are copied.

    Raises:
        DecodeError: the span does not decode to the number of frames that was cut.
        UnreadableSourceError: the source is gone, out of reach or no longer a video.
    """
    height_px, width_px = encoded_size(record, config)
    if config.copy_streams:
        copied = copy_clip(record, location, (height_px, width_px))
        if copied is not None:
            return copied
    output = io.BytesIO()
    num_frames = 0
    # bitexact: no version string and no date in the file.
    with av.open(output, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        rate = Fraction(record.fps).limit_denominator(1001)
        options = {"crf": str(config.crf), **_SAME_BYTES}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        stream.codec_context.time_base = _TIME_BASE
        _name_colours(stream.codec_context)
        stream.codec_context.gop_size = max(1, round(record.fps))
        for frame, time_s in decode_span(location, record.start_s, record.end_s, num_threads):
            try:
                image = _picture(frame, record, height_px, width_px)
                encoded = av.VideoFrame.from_ndarray(image, format="rgb24")
                encoded.pts = round((time_s - record.start_s) / _TIME_BASE)
                encoded.time_base = _TIME_BASE
                container.mux(stream.encode(encoded))
            except FFmpegError as error:
                raise DecodeError(f"cannot encode the frame at {time_s:.2f} s: {error}") from error
            num_frames += 1
        container.mux(stream.encode(None))
    if num_frames != record.num_frames:
        raise DecodeError(
            f"clip {record.clip_id} has {num_frames} frames now, {record.num_frames} when it was cut"
        )
    return output.getvalue()


def _name_colours(context: VideoCodecContext) -> None:
    """What comes out of RGB here, said in the file, so that no player has to guess it from the size."""
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709
    context.colorspace = _SMPTE170M
    context.color_range = ColorRange.MPEG


def _picture(
    frame: VideoFrame, record: ClipRecord, height_px: int, width_px: int
) -> NDArray[np.uint8]:
    """The frame as HxWx3 RGB at this size, upright and without its bars."""
    crop = record.crop
    if crop is None:
        return upright_rgb(frame, height_px, width_px, frame.rotation)
    # Cut before it is scaled: afterwards the edge would lie within a pixel.
    whole = upright_pixels(frame, record.height_px, record.width_px, frame.rotation)
    inside = whole[
        crop.top_px : crop.top_px + crop.height_px, crop.left_px : crop.left_px + crop.width_px
    ]
    scaled = cv2.resize(inside, (width_px, height_px), interpolation=cv2.INTER_AREA)
    return for_screen(scaled, frame)
