"""An image or a video that a user gives, as frames at the size of a stage, by their place in the result."""

import io
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from modeling.settings import given_positions
from training.config import TrainConfig
from training.errors import GenerateError
from training.generate_request import GIVEN, GenerateRequest, GenerateTask
from training.run_directory import StageModel
from training.streaming.decode import (
    MEDIA_OPTIONS,
    ClipDecodeError,
    decode_frames,
    fit_to_cover,
)
from training.trained_shapes import TrainedShape
from training.upsampling import clip_starts, given_per_clip, upsampled_frame_count

MAX_VIDEO_BYTES = 2 * 2**30
MAX_UPSAMPLED_FRAMES = 3000
"""Of a given video, all of which are held in memory."""


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


class GivenVideo:
    """A video file, read whole.

    Raises:
        GenerateError: the file is missing, no video, or too large.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise GenerateError(f"video {path} does not exist; give the path of a video file")
        if path.stat().st_size > MAX_VIDEO_BYTES:
            raise GenerateError(
                f"video {path} is larger than {MAX_VIDEO_BYTES / 2**30:g} GiB; cut out the part that is to be used"
            )
        self.path = path
        self._data = path.read_bytes()
        with self._readable(), self._open() as container:
            if not container.streams.video:
                raise GenerateError(f"{path} holds no video stream; give a video file")
            self.fps = float(container.streams.video[0].average_rate or 24.0)

    @cached_property
    def num_frames(self) -> int:
        """Counted, since what a file says of it may be wrong.

        Raises:
            GenerateError: the file is damaged.
        """
        with self._readable(), self._open() as container:
            return sum(1 for _ in container.decode(video=0))

    def frames(self, wanted: Sequence[int], size_px: tuple[int, int]) -> list[Tensor]:
        """Those of these numbers, ascending from 0, at (height, width) (uint8, height x width x RGB).

        Raises:
            GenerateError: the file is damaged, or has no such frame.
        """
        with self._readable():
            frames = decode_frames(self._data, wanted, size_px)
        return [torch.from_numpy(frame) for frame in frames]

    def _open(self) -> InputContainer:
        return av.open(io.BytesIO(self._data), mode="r", options=MEDIA_OPTIONS)

    @contextmanager
    def _readable(self) -> Generator[None]:
        try:
            yield
        except (FFmpegError, ClipDecodeError) as error:
            raise GenerateError(
                f"video {self.path} cannot be used: {error}; give an mp4, mov, mkv, webm or avi that is long enough"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a result is made from besides its text."""

    frames: Mapping[int, Tensor]
    """By their place in the result."""
    fps: float
    """Of the result."""
    num_frames: int
    """Of the result."""
    note: str | None = None


def read_given(
    config: TrainConfig,
    made_by: tuple[StageModel, TrainedShape],
    task: GenerateTask,
    request: GenerateRequest,
) -> Given:
    """What `request` gives to a clip of this shape, or to what several are joined to.

    Raises:
        GenerateError: a file cannot be read, or has too few frames or too many.
    """
    model, shape = made_by
    size_px, num_frames = (shape.height_px, shape.width_px), shape.num_frames
    if request.video is None:
        frames = {} if request.image is None else {0: read_image(request.image, size_px)}
        return Given(frames=frames, fps=model.playback_fps, num_frames=num_frames)
    video = GivenVideo(request.video)
    if task == "upsampling":
        return _every_second(video, model, shape)
    places, note, fps = given_positions(GIVEN[task], num_frames), None, model.playback_fps
    if task == "interpolation":
        numbers = [0, video.num_frames - 1]
        if video.num_frames > 2:
            note = f"{video.path} has {video.num_frames} frames: its first and last are given, the others are left out"
    else:
        stride = config.data_of(model.stage).sampling_stride
        numbers, fps = [place * stride for place in places], video.fps / stride
    found = video.frames(numbers, size_px)
    return Given(
        frames=dict(zip(places, found, strict=True)), fps=fps, num_frames=num_frames, note=note
    )


def _every_second(video: GivenVideo, model: StageModel, shape: TrainedShape) -> Given:
    """All frames of the video become every second one of the result, by as many clips as that takes."""
    count, per_clip = video.num_frames, given_per_clip(shape.num_frames)
    if not per_clip <= count <= MAX_UPSAMPLED_FRAMES:
        raise GenerateError(
            f"{video.path} has {count} frames, stage {model.stage} upsamples {per_clip} to {MAX_UPSAMPLED_FRAMES} "
            f"({per_clip} at a time); give a longer video, or a part of this one"
        )
    frames = video.frames(range(count), (shape.height_px, shape.width_px))
    num_frames = upsampled_frame_count(count, shape.num_frames)
    num_clips = len(clip_starts(count, per_clip))
    note = f"{video.path} has {count} frames: they become {num_frames}, in {num_clips} clips of {shape.num_frames}"
    return Given(
        frames={2 * place: frame for place, frame in enumerate(frames)},
        fps=2 * video.fps,
        num_frames=num_frames,
        note=note if num_clips > 1 else None,
    )
