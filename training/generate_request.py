"""What a user asks for, and what follows from it: the task, the stage, the settings and the text."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from modeling.config import GuidanceConfig, SamplerConfig
from modeling.settings import GivenFrames
from training.config import StageConfig, TrainConfig
from training.errors import GenerateError
from training.trained_shapes import WantedShape

GenerateTask = Literal[
    "t2i", "t2v", "ti2v", "prediction", "upsampling", "interpolation", "long", "multi_view"
]
"""A picture from text; and videos: from text; from a first frame; from the first four frames of a video; every second frame
of a video given; the first and the last frame of a video given; key frames and what is between them; six further views of
an object from one (STIV sections 2.3 and 5)."""

GIVEN: dict[GenerateTask, GivenFrames] = {
    "t2i": "none",
    "t2v": "none",
    "ti2v": "first",
    "prediction": "first_four",
    "upsampling": "every_second",
    "interpolation": "first_and_last",
    "multi_view": "first",
}
"""Which frames a task gives; those of a long video are not of one clip."""

NUM_VIEWS = 7
"""The given view and the six others (STIV section 5, appendix J.3)."""

SCALES = (0.0, 1e6)
"""Of guidance; above it a network in float32 runs into infinities."""
PLAYBACK_FPS = (0.1, 1000.0)
"""What the formats can say."""

GuidanceScheme = Literal["joint", "text", "separate", "none"]
Solver = Literal["euler", "heun"]
ConfigT = TypeVar("ConfigT", SamplerConfig, GuidanceConfig)


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """What to make. Settings that are None are those of the recipe."""

    prompt: str = ""
    class_name: str | None = None
    """Instead of a prompt, for a run that was trained on classes."""
    image: Path | None = None
    video: Path | None = None
    task: GenerateTask | None = None
    """Follows from the inputs where it is left out: a video is predicted, an image is animated."""
    stage: str | None = None
    """The last finished one that can do the task, if not named. One that still trains needs a checkpoint."""
    checkpoint: str | None = None
    """Of that stage, such as `step-000100`, or `latest`; its last one, if not named."""
    negative_prompt: str = ""
    cut_prompt: bool = False
    """Cut a text that the text encoder cannot read to its end, as captions are cut in training. Otherwise refused."""
    seed: int = 0
    solver: Solver | None = None
    num_sampling_steps: int | None = None
    guidance_scheme: GuidanceScheme | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    """Read by the scheme `separate` only."""
    height_px: int | None = None
    width_px: int | None = None
    num_frames: int | None = None
    """The trained shape that is nearest to these three is made."""
    fps: float | None = None
    """Of playback."""
    strict_join: bool = False
    """Of a long video: show each key frame once, not twice as the count of the paper does."""

    @property
    def wanted_shape(self) -> WantedShape:
        return WantedShape(
            height_px=self.height_px, width_px=self.width_px, num_frames=self.num_frames
        )


def task_of(config: TrainConfig, request: GenerateRequest) -> GenerateTask:
    """The task that is asked for, or that follows from what is given and from the stage that is named.

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
    task = request.task or _by_stage(config, request, follows)
    if task not in get_args(GenerateTask):
        raise GenerateError(
            f"--task {task}: no such task; valid: {', '.join(get_args(GenerateTask))}"
        )
    if task == "long":
        if request.video is not None:
            raise GenerateError(
                "task long takes a prompt and perhaps an image, but a video is given"
            )
        return task
    takes = {GIVEN["t2v"]: "nothing but a prompt", GIVEN["ti2v"]: "an image"}
    needs, has = (takes.get(GIVEN[name], "a video") for name in (task, follows))
    if needs != has:
        raise GenerateError(f"task {task} takes {needs}, but {has} is given")
    return task


def prompt_of(config: TrainConfig, request: GenerateRequest, task: GenerateTask) -> str:
    """The text that the network gets.

    Raises:
        GenerateError: a class is unknown or the run knows none, or the task takes no text.
    """
    text = request.prompt
    if request.class_name is not None:
        if request.prompt:
            raise GenerateError("both a prompt and a class are given; leave one out")
        text = request.class_name
    if task == "multi_view" and text:
        raise GenerateError(
            "task multi_view takes no prompt: its stage was trained on empty text (STIV appendix J.3)"
        )
    names = config.encoders.class_names
    if not names:
        if request.class_name is not None:
            raise GenerateError(
                f"a class is given, but run {config.name} was trained on texts; give a prompt instead"
            )
        return text
    if text and text not in names:
        lower = {name.lower(): name for name in names}
        near = difflib.get_close_matches(text.lower(), list(lower), n=3)
        meant = f"did you mean {', '.join(lower[name] for name in near)}? " if near else ""
        raise GenerateError(
            f"{text!r} is none of the {len(names)} classes of run {config.name}; "
            f"{meant}They are named like {', '.join(names[:5])}"
        )
    return text


def settings_of(
    config: TrainConfig, request: GenerateRequest
) -> tuple[SamplerConfig, GuidanceConfig]:
    """Those of the recipe, but for what is asked for.

    Raises:
        GenerateError: a setting is out of range, or does not fit the model.
    """
    if request.num_sampling_steps is not None and request.num_sampling_steps < 1:
        raise GenerateError(
            f"num_sampling_steps is {request.num_sampling_steps}, it must be at least 1"
        )
    for name, found, (least, most) in (
        ("guidance_scale", request.guidance_scale, SCALES),
        ("image_guidance_scale", request.image_guidance_scale, SCALES),
        ("fps", request.fps, PLAYBACK_FPS),
    ):
        # Written so that nan, which compares with nothing, is refused.
        if found is not None and not least <= found <= most:
            raise GenerateError(f"{name} is {found}, it must be from {least:g} to {most:g}")
    if request.solver == "heun" and config.model.contract.prediction == "noise":
        raise GenerateError(
            "solver heun does not fit a model that predicts noise; take euler, which is DDIM there"
        )
    sampler = _set(
        config.sampler, solver=request.solver, num_sampling_steps=request.num_sampling_steps
    )
    guidance = _set(
        config.guidance,
        scheme=request.guidance_scheme,
        text_scale=request.guidance_scale,
        image_scale=request.image_guidance_scale,
    )
    if request.image_guidance_scale is not None and guidance.scheme != "separate":
        raise GenerateError(
            f"image_guidance_scale is read by the scheme separate only, and the scheme is {guidance.scheme}"
        )
    return sampler, guidance


def makes_views(stage: StageConfig) -> bool:
    """Whether a stage turns one view of an object into six others, without text."""
    return stage.task == "stiv" and stage.num_frames == NUM_VIEWS and stage.text_dropout_prob == 1.0


def _by_stage(config: TrainConfig, request: GenerateRequest, follows: GenerateTask) -> GenerateTask:
    """What a named stage makes of these inputs: one of images makes a picture, one of views makes views."""
    stage = None if request.stage is None else config.stages.get(request.stage)
    if stage is not None and stage.task == "t2i" and follows == "t2v":
        return "t2i"
    if stage is not None and makes_views(stage) and follows == "ti2v":
        return "multi_view"
    return follows


def _set(config: ConfigT, **changes: Any) -> ConfigT:
    return config.model_copy(update={k: v for k, v in changes.items() if v is not None})
