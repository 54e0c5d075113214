"""The one place where evaluation asks for a video; what was made already with the same settings is left."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modeling.settings import given_positions
from training.errors import EvaluationError
from training.generate import GenerateRequest, GenerateResult, GenerateTask, OpenRun
from training.generate_request import GIVEN
from training.generated_files import already_made
from training.randomness import derive_seed
from training.streaming.decode import FramesFHWC
from training.streaming.storage import write_whole
from training.video_file import write_lossless_video

SEED_BITS = 31

Task = Literal["t2i", "t2v", "ti2v", "prediction", "upsampling", "interpolation", "multi_view"]
"""What can be judged against the real clip of the same caption, or of the same given frames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How videos are made; None leaves the setting of the recipe."""

    seed: int = 0
    num_sampling_steps: int | None = None
    guidance_scale: float | None = None
    stage: str | None = None
    """A finished one; the last that can do the task, if not named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What a video is made from besides its text; the task follows from it where it is left out."""

    task: GenerateTask | None = None
    image: Path | None = None
    video: Path | None = None


def make_video(
    run: OpenRun, prompt: str, out: Path, sampling: Sampling, given: Given = Given()
) -> GenerateResult:
    """Sample one video, with a noise of its own that follows from the seed and the name of the file.

    Raises:
        GenerateError: the run cannot make it.
    """
    plan = run.plan(
        GenerateRequest(
            prompt=prompt,
            image=given.image,
            video=given.video,
            task=given.task,
            stage=sampling.stage,
            # Captions are cut in training as well.
            cut_prompt=True,
            seed=derive_seed(sampling.seed, out.name) % 2**SEED_BITS,
            num_sampling_steps=sampling.num_sampling_steps,
            guidance_scale=sampling.guidance_scale,
        ),
        out,
    )
    return already_made(plan.result) or run.make(plan)


def given_of(task: Task, real: FramesFHWC, path: Path, *, stride: int, fps: float) -> Given:
    """Those frames of a real clip that the task gives, in a file without loss: `path` with an ending of its own.

    `stride` are the frames of the source, of which there are `fps` a second, from one frame of `real` to the next.
    """
    frames = real[list(given_frames(task, len(real)))]
    if not len(frames):
        return Given(task=task)
    if task in ("ti2v", "multi_view"):
        return Given(task=task, image=_as_image(frames[0], path.with_suffix(".png")))
    if task == "prediction":
        # It takes frames of a source, at the stride of the model.
        frames = np.repeat(frames, stride, axis=0)
    else:
        # The frames of an upsampled video are given at half its rate.
        fps /= 2 * stride
    return Given(task=task, video=_as_video(frames, path.with_suffix(".mp4"), fps))


def given_frames(task: Task, num_frames: int) -> tuple[int, ...]:
    """The frames of a clip that the task gives.

    Raises:
        EvaluationError: it has no frames besides.
    """
    try:
        return given_positions(GIVEN[task], num_frames)
    except ValueError as error:
        raise EvaluationError(f"task {task} cannot be judged: {error}") from error


def _as_image(frame: NDArray[np.uint8], path: Path) -> Path:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(buffer, format="PNG")
    write_whole(path, buffer.getvalue())
    return path


def _as_video(frames: FramesFHWC, path: Path, fps: float) -> Path:
    """Without loss, so that what is given are the frames themselves."""
    buffer = io.BytesIO()
    write_lossless_video(frames, buffer, fps)
    write_whole(path, buffer.getvalue())
    return path
