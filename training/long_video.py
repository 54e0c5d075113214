"""A long video: key frames first, then the frames between each two of them (STIV section 5).

Both come from stages of one run: one that was trained on frames far apart, and one that fills the gap between a first and a
last frame. Their micro-conditions differ, since each has the stride that it was trained at.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from training.checkpoint import STATE_NAME, file_sha256
from training.clip_sampler import ClipRequest, ClipSampler
from training.config import TrainConfig
from training.errors import GenerateError
from training.generate import (
    GenerateRequest,
    GenerateResult,
    finished_stage,
    settings_of,
    task_of,
    write_result,
)
from training.given_inputs import read_image
from training.run_directory import RunDirectory


def generate_long(
    run_dir: Path,
    request: GenerateRequest,
    out_path: Path,
    *,
    strict_join: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> GenerateResult:
    """Write a video of (K - 1) x F frames, from K key frames and gaps of F frames.

    As in the paper each gap keeps both of its ends, so a key frame is seen twice, as (20 - 1) x 20 = 380 counts it; with
    `strict_join` it is seen once. `request.stage` names the stage of the key frames; without it, it is the one with the
    largest stride among those that can take the prompt and the image.

    Raises:
        GenerateError: as `generate`; or no stage fills gaps, or both stages differ in size.
        TrainError, CheckpointError: the run is damaged or of another version.
    """
    if out_path.suffix != ".mp4":
        raise GenerateError(f"--out {out_path} does not end in .mp4, which is what is written")
    run = RunDirectory(run_dir)
    if not run.config.exists():
        raise GenerateError(f"{run_dir} holds no run; train first, or give the folder of a run")
    config, task = run.load_config(), task_of(request)
    sampler, guidance = settings_of(config, request)
    name = request.stage or _widest(config, run)
    keys = ClipSampler(config, run, finished_stage(config, run, task, name))
    gaps = ClipSampler(config, run, finished_stage(config, run, "interpolation"))
    if keys.size_px != gaps.size_px:
        raise GenerateError(
            f"stage {keys.stage.stage} makes frames of {keys.size_px} px and {gaps.stage.stage} of {gaps.size_px}; "
            "both must be of one size"
        )
    given = {} if request.image is None else {0: read_image(request.image, keys.size_px)}
    asked = ClipRequest(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        given=given,
        seed=request.seed,
        sampler=sampler,
        guidance=guidance,
    )
    steps, num_clips = sampler.num_sampling_steps, keys.num_frames

    def show(clip: int) -> Callable[[int, int], None]:
        def tell(done: int, _: int) -> None:
            if on_step is not None:
                on_step(clip * steps + done, num_clips * steps)

        return tell

    first = keys.sample(asked, show(0))
    parts: list[Tensor] = []
    for gap in range(keys.num_frames - 1):
        ends = {0: first.frames_FHWC[gap], gaps.num_frames - 1: first.frames_FHWC[gap + 1]}
        filled = gaps.sample(replace(asked, given=ends, seed=request.seed + gap + 1), show(gap + 1))
        is_last = gap == keys.num_frames - 2
        parts.append(filled.frames_FHWC[:-1] if strict_join and not is_last else filled.frames_FHWC)
    frames = torch.cat(parts)
    result = GenerateResult(
        task=task,
        video=out_path,
        contact_sheet=out_path.with_suffix(".frames.png"),
        stage=f"{keys.stage.stage}, {gaps.stage.stage}",
        num_frames=len(frames),
        fps=gaps.stage.playback_fps,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        given=request.image,
        given_sha256=None if request.image is None else file_sha256(request.image),
        weights_sha256=file_sha256(run.path / keys.stage.checkpoint / STATE_NAME),
        seed=request.seed,
        solver=sampler.solver,
        num_sampling_steps=sampler.num_sampling_steps,
        guidance_scheme=guidance.scheme,
        guidance_scale=guidance.text_scale,
        given_psnr_db=first.given_psnr_db,
    )
    write_result(result, frames)
    return result


def _widest(config: TrainConfig, run: RunDirectory) -> str | None:
    """The finished stage that animates, of the largest stride; None lets the task choose."""
    strides = {
        name: config.data_of(name).sampling_stride
        for name, stage in config.stages.items()
        if stage.task == "stiv" and "first" in stage.given and run.stage(name).result() is not None
    }
    return max(strides, key=lambda name: strides[name], default=None)
