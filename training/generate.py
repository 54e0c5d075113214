"""A prompt, and perhaps an image or a video, to a video file, from the averaged weights of a run."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from training.checkpoint import STATE_NAME, file_sha256
from training.clip_sampler import (
    ClipRequest,
    ClipSampler,
    SampledClip,
    StepCallback,
    memory_advice,
)
from training.config import TrainConfig
from training.encoders import FrozenEncoders, load_encoders
from training.errors import GenerateError
from training.generate_request import (
    GenerateRequest,
    GenerateTask,
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
from training.given_inputs import read_given
from training.long_video import long_frame_count, sample_long, widest_stage
from training.run_directory import RunDirectory, StageModel
from training.stage_choice import chosen_model, finished_stage
from training.trained_shapes import TrainedShape, explain_shape, nearest_shape, trained_shapes
from training.upsampling import sample_upsampled

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
    model: StageModel
    asked: ClipRequest
    """Of the one clip, of the key frames of a long video, or with all frames that are given to be upsampled."""
    gaps: tuple[StageModel, TrainedShape] | None
    """What fills a long video."""
    notes: tuple[str, ...]
    """Lines for the user: what is made otherwise than asked for, or of what is given is left out."""

    @property
    def kind(self) -> Hashable | None:
        """Equal for plans that can be made together; None for one of several clips, or with noise in every step."""
        whole = self.result.num_frames == self.asked.shape.num_frames
        if self.gaps is not None or not whole or self.asked.sampler.process == "sde":
            return None
        return self.model.checkpoint, self.asked.kind


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
        model = self._model(request, task)
        wanted = request.wanted_shape
        shape = nearest_shape(config, model.stage, wanted)
        given = read_given(config, (model, shape), task, request)
        gaps = self._gaps(shape, model) if task == "long" else None
        fps, num_frames = given.fps, given.num_frames
        if gaps is not None:
            fps = gaps[0].playback_fps
            num_frames = long_frame_count(
                num_frames, gaps[1].num_frames, strict_join=request.strict_join
            )
        models = [model] if gaps is None else [model, gaps[0]]
        source = request.image or request.video
        result = GenerateResult(
            task=task,
            video=out,
            contact_sheet=sheet_of(out),
            model=config.name,
            stage=", ".join(part.stage for part in models),
            checkpoint=", ".join(Path(part.checkpoint).name for part in models),
            height_px=shape.height_px,
            width_px=shape.width_px,
            num_frames=num_frames,
            fps=request.fps or fps,
            prompt=prompt,
            negative_prompt=request.negative_prompt,
            cut_prompt=request.cut_prompt,
            given=source,
            given_sha256=None if source is None else file_sha256(source),
            weights_sha256=", ".join(self._weights_sha256(part) for part in models),
            seed=request.seed,
            solver=sampler.solver,
            num_sampling_steps=sampler.num_sampling_steps,
            guidance_scheme=guidance.scheme,
            guidance_scale=guidance.text_scale,
            image_guidance_scale=guidance.image_scale if guidance.scheme == "separate" else None,
            given_psnr_db=None,
        )
        asked = ClipRequest(
            prompt=prompt,
            negative_prompt=request.negative_prompt,
            cut_prompt=request.cut_prompt,
            shape=shape,
            given=given.frames,
            seed=request.seed,
            sampler=sampler,
            guidance=guidance,
        )
        notes = (explain_shape(config, model.stage, wanted, shape), given.note)
        return Plan(
            request=request,
            result=result,
            model=model,
            asked=asked,
            gaps=gaps,
            notes=tuple(note for note in notes if note is not None),
        )

    def make(self, plan: Plan, on_step: StepCallback | None = None) -> GenerateResult:
        """Sample what was planned and write its files. On the CPU the same plan gives the same frames, with the same
        number of threads. `on_step` gets (steps done, steps in all).

        Raises:
            GenerateError: a text is too long, or there is too little memory.
            CheckpointError: the checkpoint is damaged.
        """
        return _write(plan, self.sample(plan, on_step))

    def make_together(
        self, plans: Sequence[Plan], on_step: StepCallback | None = None
    ) -> list[GenerateResult]:
        """Sample plans of one `kind` in one batch and write their files. The last bits may be others than by `make`, which
        makes one plan, and plans of several kinds.

        Raises:
            GenerateError, CheckpointError: as `make`.
        """
        kinds = {plan.kind for plan in plans}
        if len(plans) == 1 or len(kinds) > 1 or None in kinds:
            return [self.make(plan, on_step) for plan in plans]
        clips = self._sampler(plans[0].model).sample_together(
            [plan.asked for plan in plans], on_step
        )
        return [_write(plan, clip) for plan, clip in zip(plans, clips, strict=True)]

    def sample(self, plan: Plan, on_step: StepCallback | None = None) -> SampledClip:
        """The frames of `make`, which are not written.

        Raises:
            GenerateError, CheckpointError: as `make`.
        """
        sampler = self._sampler(plan.model)
        if plan.gaps is not None:
            return sample_long(
                (sampler, self._sampler(plan.gaps[0])),
                plan.asked,
                plan.gaps[1],
                strict_join=plan.request.strict_join,
                on_step=on_step,
            )
        if plan.result.task == "upsampling":
            return sample_upsampled(sampler, plan.asked, on_step)
        return sampler.sample(plan.asked, on_step)

    def check_text(self, plan: Plan) -> None:
        """Raises:
        GenerateError: the prompt is too long for the text encoder.
        """
        self._sampler(plan.model).text_of(plan.asked)

    def _model(self, request: GenerateRequest, task: GenerateTask) -> StageModel:
        stage = request.stage
        if task == "long":
            stage = stage or widest_stage(self.config, self.run)
            task = "t2v" if request.image is None else "ti2v"
        return chosen_model(self.config, self.run, task, stage, request.checkpoint)

    def _gaps(self, keys: TrainedShape, model: StageModel) -> tuple[StageModel, TrainedShape]:
        gaps = finished_stage(self.config, self.run, "interpolation")
        shapes = trained_shapes(self.config, gaps.stage)
        for shape in shapes:
            if (shape.height_px, shape.width_px) == (keys.height_px, keys.width_px):
                return gaps, shape
        sizes = dict.fromkeys(f"{shape.height_px}x{shape.width_px}" for shape in shapes)
        raise GenerateError(
            f"stage {model.stage} makes frames of {keys.height_px}x{keys.width_px} px and {gaps.stage} of "
            f"{', '.join(sizes)}; both must be of one size, so name one with --height and --width"
        )

    def _sampler(self, model: StageModel) -> ClipSampler:
        if self._encoders is None:
            with memory_advice("the encoders", "hide the GPU with CUDA_VISIBLE_DEVICES="):
                self._encoders = load_encoders(self.config, self.run.autoencoder, self._device)
        loaded = self._samplers.pop(model.checkpoint, None)
        if loaded is None:
            # The one that was used least lately makes room before another is loaded.
            while len(self._samplers) >= MAX_LOADED_STAGES:
                self._samplers.pop(next(iter(self._samplers)))
            loaded = ClipSampler(self.config, self.run, model, self._encoders, self._device)
        self._samplers[model.checkpoint] = loaded
        return loaded

    def _weights_sha256(self, model: StageModel) -> str:
        state = self.run.path / model.checkpoint / STATE_NAME
        if not state.exists():
            raise GenerateError(
                f"{state.parent} holds no checkpoint of stage {model.stage}; it was deleted or moved: restore it, or "
                "name another with --stage or --checkpoint"
            )
        return file_sha256(state)


def generate(
    run_dir: Path,
    request: GenerateRequest,
    out_path: Path,
    *,
    reuse: bool = False,
    on_step: StepCallback | None = None,
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


def _write(plan: Plan, clip: SampledClip) -> GenerateResult:
    result = replace(plan.result, given_psnr_db=clip.given_psnr_db)
    write_result(result, clip.frames_FHWC)
    return result
