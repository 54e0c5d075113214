"""Encoded clip bytes to frames at training size: decord, or PyAV where decord cannot read them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import av
import decord
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FramesFHWC = NDArray[np.uint8]

# What calls itself a clip may be a playlist that names other files or addresses: only containers that hold their own
# data are opened.
MEDIA_OPTIONS = {"protocol_whitelist": "none", "format_whitelist": "mov,mp4,matroska,webm,avi"}


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


def fit_to_cover(
    size_px: tuple[int, int], target_px: tuple[int, int], crop: tuple[float, float] | None = None
) -> Fit:
    """The smallest resize that keeps the aspect ratio and covers the target; sizes are (height, width).

    `crop` says where the crop lies in the room that is left, from 0 to below 1 each; at the centre if None.
    """
    scale = max(target_px[0] / size_px[0], target_px[1] / size_px[1])
    resized_px = [max(t, round(s * scale)) for s, t in zip(size_px, target_px, strict=True)]
    room = [r - t for r, t in zip(resized_px, target_px, strict=True)]
    at = [r // 2 for r in room]
    if crop is not None:
        at = [min(r, int(place * (r + 1))) for r, place in zip(room, crop, strict=True)]
    return Fit(resized_px[0], resized_px[1], at[0], at[1])


def decode_frames(
    video: bytes,
    wanted: Sequence[int],
    size_px: tuple[int, int],
    crop: tuple[float, float] | None = None,
) -> FramesFHWC:
    """The wanted frames (ascending indices) of a clip, resized and cropped to a size (height, width).

    Raises:
        ClipDecodeError: not a readable video, or a wanted frame lies beyond its end.
    """
    fit = fit_to_cover(_frame_size(video), size_px, crop)
    try:
        resized = _decode_with_decord(video, wanted, fit)
    except (decord.DECORDError, decord.DECORDLimitReachedError):
        resized = _decode_with_pyav(video, wanted, fit)
    return _cut(resized, fit, size_px)


def decode_image(
    data: bytes, size_px: tuple[int, int], crop: tuple[float, float] | None = None
) -> FramesFHWC:
    """An image as a clip of one frame.

    Raises:
        ClipDecodeError: it is no readable image.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ClipDecodeError(f"is not a readable image ({error})") from error
    fit = fit_to_cover((image.height, image.width), size_px, crop)
    resized = image.resize((fit.resized_width_px, fit.resized_height_px), Image.Resampling.BICUBIC)
    return _cut(np.asarray(resized)[None], fit, size_px)


def _cut(frames: FramesFHWC, fit: Fit, size_px: tuple[int, int]) -> FramesFHWC:
    rows = slice(fit.top_px, fit.top_px + size_px[0])
    columns = slice(fit.left_px, fit.left_px + size_px[1])
    return np.ascontiguousarray(frames[:, rows, columns])


def _frame_size(video: bytes) -> tuple[int, int]:
    try:
        with av.open(io.BytesIO(video), mode="r", options=MEDIA_OPTIONS) as container:
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
    # One for the clip: a frame that is asked by itself builds tables and starts threads of its own each time.
    scaler = VideoReformatter()
    try:
        with av.open(io.BytesIO(video), mode="r", options=MEDIA_OPTIONS) as container:
            for num_decoded, frame in enumerate(container.decode(video=0), start=1):
                if num_decoded - 1 in left:
                    left.remove(num_decoded - 1)
                    frames.append(_to_array(scaler, frame, fit))
                if not left:
                    break
    except FFmpegError as error:
        raise ClipDecodeError(f"cannot be decoded ({error})") from error
    if left:
        _check_length(num_decoded, wanted)
    return np.stack(frames)


def _to_array(scaler: VideoReformatter, frame: av.VideoFrame, fit: Fit) -> NDArray[np.uint8]:
    resized = scaler.reformat(
        frame,
        width=fit.resized_width_px,
        height=fit.resized_height_px,
        format="rgb24",
        interpolation=Interpolation.BICUBIC,
        threads=1,
    )
    return resized.to_ndarray().astype(np.uint8, copy=False)


def _check_length(num_frames: int, wanted: Sequence[int]) -> None:
    if wanted[-1] >= num_frames:
        raise ClipDecodeError(f"has {num_frames} frames, frame {wanted[-1]} was asked for")
