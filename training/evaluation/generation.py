"""The one place where evaluation asks for a video; what was made already with the same settings is left."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from training.generate import GenerateRequest, GenerateResult, GenerateTask, generate
from training.randomness import derive_seed
from training.streaming.decode import FramesFHWC
from training.streaming.storage import write_whole

SEED_BITS = 31


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How videos are made; None leaves the setting of the recipe."""

    seed: int = 0
    num_sampling_steps: int | None = None
    guidance_scale: float | None = None
    stage: str | None = None
    """A finished one; the last that can do the task, if not named."""


def make_video(
    run: Path,
    prompt: str,
    out: Path,
    sampling: Sampling,
    *,
    image: Path | None = None,
    task: GenerateTask | None = None,
) -> GenerateResult:
    """Sample one video, with a noise of its own that follows from the seed and the name of the file.

    Raises:
        GenerateError: the run cannot make it.
    """
    seed = derive_seed(sampling.seed, out.name) % 2**SEED_BITS
    return generate(
        run,
        GenerateRequest(
            prompt=prompt,
            image=image,
            task=task,
            stage=sampling.stage,
            # Captions are cut in training as well.
            cut_prompt=True,
            seed=seed,
            num_sampling_steps=sampling.num_sampling_steps,
            guidance_scale=sampling.guidance_scale,
        ),
        out,
        reuse=True,
    )


def first_frame_file(frames: FramesFHWC, path: Path) -> Path:
    """The first frame as a PNG, which is what image conditioning takes."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frames[0])).save(buffer, format="PNG")
    write_whole(path, buffer.getvalue())
    return path
