"""Frames to files that a person can look at: an H.264 video, a GIF and a contact sheet."""

import math
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from training.streaming.decode import FramesFHWC

MIN_SHOWN_HEIGHT_PX = 256
CONTACT_SHEET_COLUMNS = 4
CONTACT_SHEET_GAP_PX = 4


def enlarge(frames: FramesFHWC, min_height_px: int = MIN_SHOWN_HEIGHT_PX) -> FramesFHWC:
    """Scale small frames up by the smallest whole factor that reaches the height."""
    height_px, width_px = frames.shape[1:3]
    factor = max(1, math.ceil(min_height_px / height_px))
    if factor == 1:
        return frames
    size = (width_px * factor, height_px * factor)
    images = [Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS) for frame in frames]
    return np.stack([np.asarray(image) for image in images])


def write_video(frames: FramesFHWC, path: Path, fps: float, comment: str = "") -> None:
    """An mp4 (H.264, yuv420p) that every browser plays. Height and width must be even. `comment` is a tag of the file."""
    with av.open(str(path), mode="w", format="mp4") as container:
        if comment:
            container.metadata["comment"] = comment
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_lossless_video(frames: FramesFHWC, file: BinaryIO, fps: float) -> None:
    """An mp4 whose decoded frames are equal to these. Few players know its profile (H.264, RGB, QP 0)."""
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(file, mode="w", format="mp4") as container:
        stream = container.add_stream("libx264rgb", rate=rate, options={"qp": "0"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_gif(frames: FramesFHWC, path: Path, fps: float, comment: str = "") -> None:
    """An endless GIF. It counts time in hundredths of a second, so the rate is rounded, to at most 50 a second."""
    images = [Image.fromarray(frame) for frame in frames]
    duration_ms = max(2, round(100 / fps)) * 10
    images[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=duration_ms,
        loop=0,
        comment=comment.encode(),
    )


def write_contact_sheet(frames: FramesFHWC, path: Path, comment: str = "") -> None:
    """All frames in reading order on one PNG. `comment` is a text chunk of the file."""
    num_frames, height_px, width_px = frames.shape[:3]
    columns = min(CONTACT_SHEET_COLUMNS, num_frames)
    rows = math.ceil(num_frames / columns)
    step_px = (height_px + CONTACT_SHEET_GAP_PX, width_px + CONTACT_SHEET_GAP_PX)
    sheet = Image.new(
        "RGB",
        (columns * step_px[1] - CONTACT_SHEET_GAP_PX, rows * step_px[0] - CONTACT_SHEET_GAP_PX),
        "white",
    )
    for index, frame in enumerate(frames):
        row, column = divmod(index, columns)
        sheet.paste(Image.fromarray(frame), (column * step_px[1], row * step_px[0]))
    save_png(sheet, path, comment)


def save_png(image: Image.Image, path: Path, comment: str = "") -> None:
    """`comment` is a text chunk of that name."""
    chunks = PngInfo()
    if comment:
        chunks.add_itxt("Comment", comment)
    image.save(path, format="PNG", pnginfo=chunks)
