"""Encoded clip bytes to frames at training size: decord, or PyAV where decord cannot read them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import av
import decord
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

FramesFHWC = NDArray[np.uint8]

# What calls itself a clip may be a playlist that names other files or addresses: only containers that hold their own
# data are opened.
_OPTIONS = {"protocol_whitelist": "none", "format_whitelist": "mov,mp4,matroska,webm,avi"}


class ClipDecodeError(Exception):
    """The bytes of a clip are not a video, or hold fewer frames than asked for."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How frames of one size become frames of another: resize to cover, then cut out the centre."""

    resized_height_px: int
    resized_width_px: int
    top_px: int
    left_px: int
    """The crop starts here, in pixels of the resized frame."""


def fit_to_cover(height_px: int, width_px: int, target_height_px: int, target_width_px: int) -> Fit:
    """The smallest resize that keeps the aspect ratio and covers the target, cropped at the centre."""
    scale = max(target_height_px / height_px, target_width_px / width_px)
    resized_height_px = max(target_height_px, round(height_px * scale))
    resized_width_px = max(target_width_px, round(width_px * scale))
    return Fit(
        resized_height_px=resized_height_px,
        resized_width_px=resized_width_px,
        top_px=(resized_height_px - target_height_px) // 2,
        left_px=(resized_width_px - target_width_px) // 2,
    )


def decode_frames(video: bytes, wanted: Sequence[int], height_px: int, width_px: int) -> FramesFHWC:
    """The wanted frames (ascending indices) of a clip, resized and cropped to height x width.

    Raises:
        ClipDecodeError: not a readable video, or a wanted frame lies beyond its end.
    """
    source_height_px, source_width_px = _frame_size(video)
    fit = fit_to_cover(source_height_px, source_width_px, height_px, width_px)
    try:
        resized = _decode_with_decord(video, wanted, fit)
    except (decord.DECORDError, decord.DECORDLimitReachedError):
        resized = _decode_with_pyav(video, wanted, fit)
    rows = slice(fit.top_px, fit.top_px + height_px)
    columns = slice(fit.left_px, fit.left_px + width_px)
    return np.ascontiguousarray(resized[:, rows, columns])


def _frame_size(video: bytes) -> tuple[int, int]:
    try:
        with av.open(io.BytesIO(video), mode="r", options=_OPTIONS) as container:
            if not container.streams.video:
                raise ClipDecodeError("holds no video stream")
            context = container.streams.video[0].codec_context
            size = context.height, context.width
    except FFmpegError as error:
        raise ClipDecodeError(f"is not a readable video ({error})") from error
    if min(size) <= 0:
        raise ClipDecodeError("states no frame size")
    return size


def _decode_with_decord(video: bytes, wanted: Sequence[int], fit: Fit) -> FramesFHWC:
    reader = decord.VideoReader(
        io.BytesIO(video),
        width=fit.resized_width_px,
        height=fit.resized_height_px,
        num_threads=1,
    )
    _check_length(len(reader), wanted)
    return reader.get_batch(list(wanted)).asnumpy()


def _decode_with_pyav(video: bytes, wanted: Sequence[int], fit: Fit) -> FramesFHWC:
    left = set(wanted)
    frames: list[NDArray[np.uint8]] = []
    num_decoded = 0
    try:
        with av.open(io.BytesIO(video), mode="r", options=_OPTIONS) as container:
            for num_decoded, frame in enumerate(container.decode(video=0), start=1):
                if num_decoded - 1 in left:
                    left.remove(num_decoded - 1)
                    frames.append(_to_array(frame, fit))
                if not left:
                    break
    except FFmpegError as error:
        raise ClipDecodeError(f"cannot be decoded ({error})") from error
    if left:
        _check_length(num_decoded, wanted)
    return np.stack(frames)


def _to_array(frame: av.VideoFrame, fit: Fit) -> NDArray[np.uint8]:
    resized = frame.reformat(
        width=fit.resized_width_px,
        height=fit.resized_height_px,
        format="rgb24",
        interpolation=Interpolation.BICUBIC,
    )
    return resized.to_ndarray().astype(np.uint8, copy=False)


def _check_length(num_frames: int, wanted: Sequence[int]) -> None:
    if wanted[-1] >= num_frames:
        raise ClipDecodeError(f"has {num_frames} frames, frame {wanted[-1]} was asked for")
