"""A prompt, and perhaps an image or a video, to a video file, from the averaged weights of a run."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from modeling.config import GuidanceConfig, SamplerConfig
from modeling.settings import GivenFrames, given_positions
from training.checkpoint import STATE_NAME, file_sha256, write_json
from training.clip_sampler import ClipRequest, ClipSampler
from training.config import TrainConfig
from training.errors import GenerateError
from training.given_inputs import read_image, read_video
from training.run_directory import RunDirectory, StageResult
from training.video_file import enlarge, write_contact_sheet, write_video

GenerateTask = Literal["t2i", "t2v", "ti2v", "prediction", "upsampling", "interpolation"]
"""A picture, and videos: from text; from a first frame; from the first four frames of a video; every second frame of a video given; the first and
the last frame of a video given (STIV sections 2.3 and 5)."""

GIVEN: dict[GenerateTask, GivenFrames] = {
    "t2i": "none",
    "t2v": "none",
    "ti2v": "first",
    "prediction": "first_four",
    "upsampling": "every_second",
    "interpolation": "first_and_last",
}
"""Which frames a task gives."""


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """What to make. Settings that are None are those of the recipe."""

    prompt: str
    image: Path | None = None
    video: Path | None = None
    task: GenerateTask | None = None
    """Follows from the inputs where it is left out: a video is predicted, an image is animated."""
    stage: str | None = None
    """A finished stage; the last one that can do the task, if not named."""
    negative_prompt: str = ""
    seed: int = 0
    num_sampling_steps: int | None = None
    guidance_scale: float | None = None


@dataclass(frozen=True, kw_only=True)
class GenerateResult:
    """Where the files are and what made them."""

    task: GenerateTask
    video: Path
    contact_sheet: Path
    stage: str
    num_frames: int
    fps: float
    prompt: str
    negative_prompt: str
    given: Path | None
    """The image or video that was given."""
    given_sha256: str | None
    weights_sha256: str
    """Of the checkpoint's `state.json`, which names the hash of every tensor file."""
    seed: int
    solver: str
    num_sampling_steps: int
    guidance_scheme: str
    guidance_scale: float
    given_psnr_db: float | None
    """The given frames against the autoencoder's reconstruction of what was given; None where nothing was."""


def generate(
    run_dir: Path,
    request: GenerateRequest,
    out_path: Path,
    *,
    reuse: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> GenerateResult:
    """Write `out_path` (NAME.mp4), and beside it NAME.frames.png, a contact sheet, and NAME.settings.json.

    On the CPU the same arguments give the same frames. With `reuse`, files that the same weights, settings and inputs
    made are left as they are. `on_step` gets (steps done, steps in all).

    Raises:
        GenerateError: there is no run, a setting is out of range, `out_path` is no mp4, an input is unreadable, or no
            finished stage can do the task.
        TrainError, CheckpointError: the run is damaged or of another version.
    """
    if out_path.suffix != ".mp4":
        raise GenerateError(f"--out {out_path} does not end in .mp4, which is what is written")
    run = RunDirectory(run_dir)
    if not run.config.exists():
        raise GenerateError(f"{run_dir} holds no run; train first, or give the folder of a run")
    config, task = run.load_config(), task_of(request)
    stage = finished_stage(config, run, task, request.stage)
    sampler, guidance = settings_of(config, request)
    given, fps = _given(config, stage, task, request)
    source = request.image or request.video
    planned = GenerateResult(
        task=task,
        video=out_path,
        contact_sheet=out_path.with_suffix(".frames.png"),
        stage=stage.stage,
        num_frames=config.stages[stage.stage].num_frames,
        fps=fps,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        given=source,
        given_sha256=None if source is None else file_sha256(source),
        weights_sha256=file_sha256(run.path / stage.checkpoint / STATE_NAME),
        seed=request.seed,
        solver=sampler.solver,
        num_sampling_steps=sampler.num_sampling_steps,
        guidance_scheme=guidance.scheme,
        guidance_scale=guidance.text_scale,
        given_psnr_db=None,
    )
    if reuse and (made := _already_made(planned)):
        return made
    clip = ClipSampler(config, run, stage).sample(
        ClipRequest(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            given=given,
            seed=request.seed,
            sampler=sampler,
            guidance=guidance,
        ),
        on_step,
    )
    result = replace(planned, given_psnr_db=clip.given_psnr_db)
    write_result(result, clip.frames_FHWC)
    return result


def task_of(request: GenerateRequest) -> GenerateTask:
    """The task that is asked for, or that follows from what is given.

    Raises:
        GenerateError: the inputs do not fit the task.
    """
    if request.image is not None and request.video is not None:
        raise GenerateError("both an image and a video are given; leave one out")
    follows: GenerateTask = "t2v"
    if request.video is not None:
        follows = "prediction"
    elif request.image is not None:
        follows = "ti2v"
    task = request.task or follows
    if task not in get_args(GenerateTask):
        raise GenerateError(
            f"--task {task}: no such task; valid: {', '.join(get_args(GenerateTask))}"
        )
    takes = {GIVEN["t2v"]: "nothing but a prompt", GIVEN["ti2v"]: "an image"}
    needs, has = (takes.get(GIVEN[name], "a video") for name in (task, follows))
    if needs != has:
        raise GenerateError(f"task {task} takes {needs}, but {has} is given")
    return task


def finished_stage(
    config: TrainConfig, run: RunDirectory, task: GenerateTask, name: str | None = None
) -> StageResult:
    """The named stage, or the last finished one that was trained for the task.

    Raises:
        GenerateError: there is none; the message says what the run has.
    """
    if name is not None and name not in config.stages:
        raise GenerateError(
            f"{run.path} has no stage {name}; its stages are {', '.join(config.stages)}"
        )
    finished = [result for n in config.stages if (result := run.stage(n).result()) is not None]
    fitting = [r for r in finished if name in (None, r.stage) and _can(config, r, task)]
    if fitting:
        return fitting[-1]
    done = ", ".join(result.stage for result in finished) or "none"
    if task != "t2i" and not any(result.task != "t2i" for result in finished):
        raise GenerateError(
            f"{run.path} has no finished video stage (finished: {done}); resume the run first"
        )
    raise GenerateError(
        f"task {task} needs a finished {'stage' if name is None else f'stage {name}'} that was trained with "
        f"given={GIVEN[task]!r}; finished in {run.path}: {done}"
    )


def settings_of(
    config: TrainConfig, request: GenerateRequest
) -> tuple[SamplerConfig, GuidanceConfig]:
    """Those of the recipe, but for what is asked for.

    Raises:
        GenerateError: a setting is out of range.
    """
    sampler, guidance = config.sampler, config.guidance
    if (steps := request.num_sampling_steps) is not None:
        if steps < 1:
            raise GenerateError(f"num_sampling_steps is {steps}, it must be at least 1")
        sampler = sampler.model_copy(update={"num_sampling_steps": steps})
    if (scale := request.guidance_scale) is not None:
        if scale < 0:
            raise GenerateError(f"guidance_scale is {scale}, it must not be negative")
        guidance = guidance.model_copy(update={"text_scale": scale})
    return sampler, guidance


def write_result(result: GenerateResult, frames_FHWC: Tensor) -> None:
    """The video, its contact sheet and its settings; the settings are in the video file as well."""
    result.video.parent.mkdir(parents=True, exist_ok=True)
    settings = _settings_file(result.video)
    # Gone first and back last: they vouch for the files beside them.
    settings.unlink(missing_ok=True)
    shown, plain = enlarge(np.asarray(frames_FHWC)), _plain(result)
    # Not where the files lie, which is nobody's business who gets the video.
    facts = {k: v for k, v in plain.items() if k not in ("video", "contact_sheet", "given")}
    write_video(shown, result.video, result.fps, comment=json.dumps(facts))
    write_contact_sheet(shown, result.contact_sheet)
    write_json(settings, plain)


def _can(config: TrainConfig, result: StageResult, task: GenerateTask) -> bool:
    if "t2i" in (result.task, task):
        return result.task == task
    if result.task == "t2v":
        return task == "t2v"
    given = config.stages[result.stage].given
    # With its image dropped, a stage that animates is a text-to-video model (STIV section 2.3.1).
    return GIVEN[task] in given or (task == "t2v" and "first" in given)


def _given(
    config: TrainConfig, stage: StageResult, task: GenerateTask, request: GenerateRequest
) -> tuple[dict[int, Tensor], float]:
    """The given frames by their place in the clip, and the frames a second of the result."""
    data, num_frames = config.data_of(stage.stage), config.stages[stage.stage].num_frames
    places, size_px = given_positions(GIVEN[task], num_frames), data.sizes[0]
    if request.image is not None:
        return {0: read_image(request.image, size_px)}, stage.playback_fps
    if request.video is None:
        return {}, stage.playback_fps
    if task == "interpolation":
        frames, _ = read_video(request.video, (0, -1), size_px)
        return dict(zip(places, frames, strict=True)), stage.playback_fps
    if task == "upsampling":
        # The frames of the video become every second one of the result.
        frames, fps = read_video(request.video, range(len(places)), size_px)
        return dict(zip(places, frames, strict=True)), 2 * fps
    wanted = [place * data.sampling_stride for place in places]
    frames, fps = read_video(request.video, wanted, size_px)
    return dict(zip(places, frames, strict=True)), fps / data.sampling_stride


def _settings_file(video: Path) -> Path:
    return video.with_suffix(".settings.json")


def _already_made(planned: GenerateResult) -> GenerateResult | None:
    """The result on disk, if it is what `planned` would make and its files are there."""
    settings = _settings_file(planned.video)
    if not (settings.exists() and planned.video.exists() and planned.contact_sheet.exists()):
        return None
    try:
        found = json.loads(settings.read_bytes())
    except ValueError:
        return None
    made = replace(planned, given_psnr_db=found.get("given_psnr_db"))
    return made if found == _plain(made) else None


def _plain(result: GenerateResult) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in asdict(result).items()
    }
