"""An image or a video that a user gives, as frames at the size of a stage."""

import io
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import torch
from av.error import FFmpegError
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from training.errors import GenerateError
from training.streaming.decode import (
    MEDIA_OPTIONS,
    ClipDecodeError,
    decode_frames,
    fit_to_cover,
)

MAX_VIDEO_BYTES = 2 * 2**30


def read_image(path: Path, size_px: tuple[int, int]) -> Tensor:
    """An image file as one frame of (height, width) (uint8, height x width x RGB).

    Raises:
        GenerateError: the file is missing or not an image.
    """
    height_px, width_px = size_px
    try:
        with Image.open(path) as opened:
            # A phone stores a portrait as a landscape and a note to turn it.
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except FileNotFoundError as error:
        raise GenerateError(
            f"image {path} does not exist; give the path of a PNG or JPEG"
        ) from error
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise GenerateError(
            f"{path} cannot be read as an image ({error}); give a PNG or JPEG"
        ) from error
    fit = fit_to_cover((image.height, image.width), (height_px, width_px))
    size = (fit.resized_width_px, fit.resized_height_px)
    box = (fit.left_px, fit.top_px, fit.left_px + width_px, fit.top_px + height_px)
    return torch.from_numpy(np.array(image.resize(size, Image.Resampling.BICUBIC).crop(box)))


def read_video(
    path: Path, wanted: Sequence[int], size_px: tuple[int, int]
) -> tuple[list[Tensor], float]:
    """The frames of these numbers, counted from 0 (-1 is the last one), and the frames a second.

    Raises:
        GenerateError: the file is missing, no video, too large, or has no such frame.
    """
    if not path.is_file():
        raise GenerateError(f"video {path} does not exist; give the path of a video file")
    if path.stat().st_size > MAX_VIDEO_BYTES:
        raise GenerateError(
            f"video {path} is larger than {MAX_VIDEO_BYTES / 2**30:g} GiB; cut out the part that is to be used"
        )
    data = path.read_bytes()
    try:
        with av.open(io.BytesIO(data), mode="r", options=MEDIA_OPTIONS) as container:
            if not container.streams.video:
                raise GenerateError(f"{path} holds no video stream; give a video file")
            rate = container.streams.video[0].average_rate
            count = sum(1 for _ in container.decode(video=0)) if -1 in wanted else 0
        numbers = [count - 1 if number == -1 else number for number in wanted]
        frames = decode_frames(data, numbers, size_px)
    except (FFmpegError, ClipDecodeError) as error:
        raise GenerateError(
            f"video {path} cannot be used: {error}; {len(wanted)} frames are taken from its start"
        ) from error
    return [torch.from_numpy(frame) for frame in frames], float(rate or 24.0)
