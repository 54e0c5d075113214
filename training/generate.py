"""A prompt, and perhaps an image or a video, to a video file, from the averaged weights of a run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from modeling.config import GuidanceConfig, SamplerConfig
from modeling.settings import given_positions
from training.checkpoint import STATE_NAME, file_sha256
from training.clip_sampler import ClipRequest, ClipSampler, SampledClip, memory_advice
from training.config import TrainConfig
from training.encoders import FrozenEncoders, load_encoders
from training.errors import GenerateError
from training.generate_request import (
    GIVEN,
    GenerateRequest,
    GenerateTask,
    finished_stage,
    prompt_of,
    settings_of,
    task_of,
)
from training.generated_files import (
    GenerateResult,
    already_made,
    check_out,
    sheet_of,
    write_result,
)
from training.given_inputs import read_image, read_video
from training.long_video import long_frame_count, sample_long, widest_stage
from training.run_directory import RunDirectory, StageResult
from training.trained_shapes import TrainedShape, explain_shape, nearest_shape

__all__ = [
    "GenerateRequest",
    "GenerateResult",
    "GenerateTask",
    "OpenRun",
    "Plan",
    "finished_stage",
    "generate",
]

MAX_LOADED_STAGES = 2
"""Models kept in memory: a long video takes two."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request that was checked, and everything that making it takes."""

    request: GenerateRequest
    result: GenerateResult
    """As it will be; what is known only afterwards is None."""
    stage: StageResult
    shape: TrainedShape
    gaps: tuple[StageResult, TrainedShape] | None
    """What fills a long video."""
    given: Mapping[int, Tensor]
    sampler: SamplerConfig
    guidance: GuidanceConfig
    note: str | None
    """One line for the user, where the trained shape is not the one that was asked for."""


class OpenRun:
    """A run that videos are made from. Encoders and models are loaded when first needed, and kept.

    Raises:
        GenerateError: there is no run.
        TrainError: it is damaged or of another version.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run = RunDirectory(run_dir)
        if not self.run.config.exists():
            raise GenerateError(f"{run_dir} holds no run; train first, or give the folder of a run")
        self.config: TrainConfig = self.run.load_config()
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._encoders: FrozenEncoders | None = None
        self._samplers: dict[str, ClipSampler] = {}

    def plan(self, request: GenerateRequest, out: Path) -> Plan:
        """Check everything that can be checked without a model, and read what is given.

        Raises:
            GenerateError: a setting is out of range, `out` has another format, an input is unreadable, a class is
                unknown, a checkpoint is missing, or no finished stage can do the task.
        """
        check_out(out)
        config, task = self.config, task_of(self.config, request)
        prompt = prompt_of(config, request, task)
        sampler, guidance = settings_of(config, request)
        stage = self._stage(request, task)
        wanted = request.wanted_shape
        shape = nearest_shape(config, stage.stage, wanted)
        gaps = self._gaps(shape, stage) if task == "long" else None
        given, fps = _given(config, (stage, shape), task, request)
        num_frames = shape.num_frames
        if gaps is not None:
            fps = gaps[0].playback_fps
            num_frames = long_frame_count(
                num_frames, gaps[1].num_frames, strict_join=request.strict_join
            )
        stages = [stage] if gaps is None else [stage, gaps[0]]
        source = request.image or request.video
        result = GenerateResult(
            task=task,
            video=out,
            contact_sheet=sheet_of(out),
            model=config.name,
            stage=", ".join(part.stage for part in stages),
            checkpoint=", ".join(Path(part.checkpoint).name for part in stages),
            height_px=shape.height_px,
            width_px=shape.width_px,
            num_frames=num_frames,
            fps=request.fps or fps,
            prompt=prompt,
            negative_prompt=request.negative_prompt,
            cut_prompt=request.cut_prompt,
            given=source,
            given_sha256=None if source is None else file_sha256(source),
            weights_sha256=", ".join(self._weights_sha256(part) for part in stages),
            seed=request.seed,
            solver=sampler.solver,
            num_sampling_steps=sampler.num_sampling_steps,
            guidance_scheme=guidance.scheme,
            guidance_scale=guidance.text_scale,
            image_guidance_scale=guidance.image_scale if guidance.scheme == "separate" else None,
            given_psnr_db=None,
        )
        return Plan(
            request=request,
            result=result,
            stage=stage,
            shape=shape,
            gaps=gaps,
            given=given,
            sampler=sampler,
            guidance=guidance,
            note=explain_shape(config, stage.stage, wanted, shape),
        )

    def make(self, plan: Plan, on_step: Callable[[int, int], None] | None = None) -> GenerateResult:
        """Sample what was planned and write its files. On the CPU the same plan gives the same frames, with the same
        number of threads. `on_step` gets (steps done, steps in all).

        Raises:
            GenerateError: a text is too long, or there is too little memory.
            CheckpointError: the checkpoint is damaged.
        """
        asked = ClipRequest(
            prompt=plan.result.prompt,
            negative_prompt=plan.request.negative_prompt,
            cut_prompt=plan.request.cut_prompt,
            shape=plan.shape,
            given=plan.given,
            seed=plan.request.seed,
            sampler=plan.sampler,
            guidance=plan.guidance,
        )
        clip = self._sample(plan, asked, on_step)
        result = replace(plan.result, given_psnr_db=clip.given_psnr_db)
        write_result(result, clip.frames_FHWC)
        return result

    def _sample(
        self, plan: Plan, asked: ClipRequest, on_step: Callable[[int, int], None] | None
    ) -> SampledClip:
        if plan.gaps is None:
            return self._sampler(plan.stage).sample(asked, on_step)
        stage, shape = plan.gaps
        samplers = (self._sampler(plan.stage), self._sampler(stage))
        return sample_long(
            samplers, asked, shape, strict_join=plan.request.strict_join, on_step=on_step
        )

    def _stage(self, request: GenerateRequest, task: GenerateTask) -> StageResult:
        name = request.stage
        if task == "long":
            name = name or widest_stage(self.config, self.run)
            task = "t2v" if request.image is None else "ti2v"
        stage = finished_stage(self.config, self.run, task, name)
        if request.checkpoint is None:
            return stage
        folder = self.run.stage(stage.stage).checkpoints
        known = sorted(path.name for path in folder.glob("step-*"))
        if request.checkpoint not in known:
            raise GenerateError(
                f"stage {stage.stage} has no checkpoint {request.checkpoint}; it has {', '.join(known) or 'none'}"
            )
        checkpoint = (folder / request.checkpoint).relative_to(self.run.path)
        return replace(stage, checkpoint=str(checkpoint))

    def _gaps(self, keys: TrainedShape, stage: StageResult) -> tuple[StageResult, TrainedShape]:
        gaps = finished_stage(self.config, self.run, "interpolation")
        height_px, width_px = self.config.data_of(gaps.stage).sizes[0]
        if (keys.height_px, keys.width_px) != (height_px, width_px):
            raise GenerateError(
                f"stage {stage.stage} makes frames of {keys.height_px}x{keys.width_px} px and {gaps.stage} of "
                f"{height_px}x{width_px}; both must be of one size"
            )
        return gaps, TrainedShape(height_px, width_px, self.config.stages[gaps.stage].num_frames)

    def _sampler(self, stage: StageResult) -> ClipSampler:
        if self._encoders is None:
            with memory_advice("the encoders", "hide the GPU with CUDA_VISIBLE_DEVICES="):
                self._encoders = load_encoders(self.config, self.run.autoencoder, self._device)
        loaded = self._samplers.pop(stage.checkpoint, None)
        if loaded is None:
            # The one that was used least lately makes room before another is loaded.
            while len(self._samplers) >= MAX_LOADED_STAGES:
                self._samplers.pop(next(iter(self._samplers)))
            loaded = ClipSampler(self.config, self.run, stage, self._encoders, self._device)
        self._samplers[stage.checkpoint] = loaded
        return loaded

    def _weights_sha256(self, stage: StageResult) -> str:
        state = self.run.path / stage.checkpoint / STATE_NAME
        if not state.exists():
            raise GenerateError(
                f"{state.parent} holds no checkpoint of stage {stage.stage}; it was deleted or moved: restore it, or "
                "name another with --stage or --checkpoint"
            )
        return file_sha256(state)


def generate(
    run_dir: Path,
    request: GenerateRequest,
    out_path: Path,
    *,
    reuse: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> GenerateResult:
    """Write `out_path` (NAME.mp4, .gif or .png), and beside it NAME.frames.png, a contact sheet, and NAME.settings.json.

    With `reuse`, files that the same weights, settings and inputs made are left as they are. `on_step` gets (steps done,
    steps in all).

    Raises:
        GenerateError, TrainError, CheckpointError: as `OpenRun` and its methods.
    """
    opened = OpenRun(run_dir)
    plan = opened.plan(request, out_path)
    if reuse and (made := already_made(plan.result)):
        return made
    return opened.make(plan, on_step)


def _given(
    config: TrainConfig,
    made_by: tuple[StageResult, TrainedShape],
    task: GenerateTask,
    request: GenerateRequest,
) -> tuple[dict[int, Tensor], float]:
    """The given frames by their place in the clip, and the frames a second of the result."""
    stage, shape = made_by
    size_px = (shape.height_px, shape.width_px)
    if request.image is not None:
        return {0: read_image(request.image, size_px)}, stage.playback_fps
    if request.video is None:
        return {}, stage.playback_fps
    places = given_positions(GIVEN[task], shape.num_frames)
    if task == "interpolation":
        frames, _ = read_video(request.video, (0, -1), size_px)
        return dict(zip(places, frames, strict=True)), stage.playback_fps
    if task == "upsampling":
        # The frames of the video become every second one of the result.
        frames, fps = read_video(request.video, range(len(places)), size_px)
        return dict(zip(places, frames, strict=True)), 2 * fps
    stride = config.data_of(stage.stage).sampling_stride
    frames, fps = read_video(request.video, [place * stride for place in places], size_px)
    return dict(zip(places, frames, strict=True)), fps / stride
