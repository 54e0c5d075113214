"""A sample to its numbers: frames of a clip or an image, or latents that were encoded before."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.config import DataConfig
from training.errors import DataError
from training.latents import LATENT_DTYPE, POOLED_DTYPE, bytes_of
from training.streaming.buckets import Bucket
from training.streaming.decode import ClipDecodeError, FramesFHWC, decode_frames, decode_image
from training.streaming.index import Clip, SampleIndex
from training.streaming.order import Sample
from training.streaming.storage import RangeReader

Latents = NDArray[np.float16]
Shape = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class ReadSample:
    """Either frames (F x H x W x RGB) or latents (F x C x H x W) with the features of the caption, tokens and pooled."""

    frames_FHWC: FramesFHWC | None = None
    latents_FCHW: Latents | None = None
    tokens_LD: NDArray[np.float16] | None = None
    pooled_D: NDArray[np.float32] | None = None


class SampleReader:
    """Reads and decodes samples; belongs to one thread of one process.

    Whole clips at the main size of the run are kept as files in `folder`, written atomically, so that workers and stages
    may share it: as many of the first clips as fit into `data.cache_bytes`.
    """

    def __init__(self, index: SampleIndex, data: DataConfig, folder: Path) -> None:
        self._arguments = (index, data, folder)
        self._data = data
        self._folder = folder / index.fingerprint
        self._files = RangeReader()
        clip_bytes = index.numbers("num_frames") * (data.height_px * data.width_px * 3)
        self._num_cached = 0
        if data.cache_bytes and not data.random_crop:
            self._num_cached = int(
                np.searchsorted(np.cumsum(clip_bytes), data.cache_bytes, "right")
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """A loader process opens files of its own."""
        return SampleReader, self._arguments

    def read(
        self, sample: Sample, bucket: Bucket, place: Callable[[Shape], Latents] | None = None
    ) -> ReadSample:
        """What is trained on.

        `place` gives the part of a batch that latents of this shape are read into, without a copy between.

        Raises:
            DataError: the clip cannot be read or decoded, or is shorter than its record says.
        """
        clip = sample.clip
        if clip.media == "latents":
            return self._read_latents(sample, place or _new_latents)
        frames = self.frames(clip, sample.frame_indices, bucket, sample.crop)
        if sample.flips:
            frames = np.ascontiguousarray(frames[:, :, ::-1])
        return ReadSample(frames_FHWC=frames)

    def frames(
        self,
        clip: Clip,
        indices: Sequence[int],
        bucket: Bucket,
        crop: tuple[float, float] | None = None,
    ) -> FramesFHWC:
        """Frames (uint8, F x height x width x RGB) at ascending indices of a clip.

        Raises:
            DataError: as `read`.
        """
        is_main_size = (bucket.height_px, bucket.width_px) == (
            self._data.height_px,
            self._data.width_px,
        )
        if clip.media != "video" or clip.row >= self._num_cached or not is_main_size:
            return self._decode(clip, indices, bucket, crop)
        path = self._folder / f"{clip.row:09d}.{bucket.height_px}x{bucket.width_px}.npy"
        if not path.exists():
            _write_array(path, self._decode(clip, range(clip.num_frames), bucket, None))
        whole: FramesFHWC = np.load(path, mmap_mode="r", allow_pickle=False)
        return np.ascontiguousarray(whole[list(indices)])

    def _read_latents(self, sample: Sample, place: Callable[[Shape], Latents]) -> ReadSample:
        clip = sample.clip
        frame_bytes = clip.size_bytes // clip.num_frames
        first, last = sample.frame_indices[0], sample.frame_indices[-1]
        count = last - first + 1
        # One read of the whole window: frames between those that are wanted cost less than another read.
        offset = clip.offset + first * frame_bytes
        latents = place((len(sample.frame_indices), *clip.latent_shape_CHW))
        window = latents if sample.stride == 1 else _new_latents((count, *clip.latent_shape_CHW))
        self._files.read_into(clip.location, offset, [bytes_of(window)])
        if window is not latents:
            latents[:] = window[:: sample.stride]
        tokens, pooled = self._read_text(clip, sample.caption_number)
        return ReadSample(latents_FCHW=latents, tokens_LD=tokens, pooled_D=pooled)

    def _read_text(
        self, clip: Clip, caption: int
    ) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
        at = 3 * caption
        tokens_offset, num_tokens, pooled_offset = clip.text_places[at : at + 3]
        text_width, pooled_width = clip.text_widths
        tokens = np.empty((num_tokens, text_width), LATENT_DTYPE)
        pooled = np.empty(pooled_width, POOLED_DTYPE)
        if pooled_offset + pooled.nbytes == tokens_offset:
            # So it is where a clip has one caption, as safetensors sorts what it holds.
            both = [bytes_of(pooled), bytes_of(tokens)]
            self._files.read_into(clip.location, pooled_offset, both)
        else:
            self._files.read_into(clip.location, tokens_offset, [bytes_of(tokens)])
            self._files.read_into(clip.location, pooled_offset, [bytes_of(pooled)])
        return tokens, pooled

    def _decode(
        self,
        clip: Clip,
        indices: Sequence[int],
        bucket: Bucket,
        crop: tuple[float, float] | None,
    ) -> FramesFHWC:
        data = self._files.read(clip.location, clip.offset, clip.size_bytes)
        size_px = (bucket.height_px, bucket.width_px)
        try:
            if clip.media == "image":
                return decode_image(data, size_px, crop)
            return decode_frames(data, indices, size_px, crop)
        except ClipDecodeError as error:
            raise DataError(
                f"clip {clip.clip_id} of {clip.location} {error}, its record says {clip.num_frames} "
                "frames; build the data set again"
            ) from error


def _new_latents(shape_FCHW: Shape) -> Latents:
    return np.empty(shape_FCHW, LATENT_DTYPE)


def _write_array(path: Path, frames: FramesFHWC) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several workers may decode the same clip at once: each writes its own file, the last rename wins.
    temporary = path.with_name(f".{path.stem}-{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.save(file, frames, allow_pickle=False)
    temporary.replace(path)
