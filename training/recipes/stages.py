"""The stages that the paper trains, at any scale. What a stage does not set is the paper's (`StageConfig`)."""

from typing import Any

from modeling.flops import ClipShape, token_grid
from modeling.settings import LATENT_DOWNSAMPLING, GivenFrames
from training.config import StageConfig
from training.recipes.scales import Scale


def images_low(scale: Scale) -> StageConfig:
    """T2I at low resolution, from scratch (section 3.1)."""
    return _stage(scale, "t2i", scale.steps, scale.image_batch, scale.low_px)


def images_low_unmasked(scale: Scale, init_from: str) -> StageConfig:
    """T2I without masking: repairs the artefacts of masking (section 3.1). Videos start from the masked one."""
    steps, batch = scale.unmasked_image_steps, scale.image_batch
    return _stage(scale, "t2i", steps, batch, scale.low_px, init_from=init_from, mask_ratio=0.0)


def images_high(scale: Scale, init_from: str) -> StageConfig:
    """T2I at high resolution, from the one at low resolution (section 2.4)."""
    steps, batch = scale.high_image_steps, scale.high_image_batch
    return _stage(scale, "t2i", steps, batch, scale.high_px, init_from=init_from)


def videos_low(scale: Scale, init_from: str, **changes: Any) -> StageConfig:
    """T2V at low resolution, from T2I (section 2.4)."""
    steps, batch = scale.steps, scale.video_batch
    return _stage(scale, "t2v", steps, batch, scale.low_px, init_from=init_from, **changes)


def videos_high(scale: Scale, init_from: str, temporal_from: str) -> StageConfig:
    """T2V at high resolution, from "both" (section 2.4, table 6b)."""
    changes = {"init_from": init_from, "temporal_from": temporal_from}
    steps, batch = scale.high_video_steps, scale.video_batch
    return _stage(scale, "t2v", steps, batch, scale.high_px, **changes)


def stiv_low(scale: Scale, init_from: str) -> StageConfig:
    """STIV at low resolution with image dropout, from T2V of the same (section 2.4)."""
    return _stage(scale, "stiv", scale.steps, scale.video_batch, scale.low_px, init_from=init_from)


def stiv_high(scale: Scale, init_from: str) -> StageConfig:
    """STIV at high resolution with image dropout, from T2V of the same (section 2.4)."""
    return _stage(scale, "stiv", scale.steps, scale.video_batch, scale.high_px, init_from=init_from)


def stiv_unmasked(scale: Scale, init_from: str, side_px: int) -> StageConfig:
    """The last steps without masking (section 3.1)."""
    steps, batch = scale.unmasked_video_steps, scale.video_batch
    return _stage(scale, "stiv", steps, batch, side_px, init_from=init_from, mask_ratio=0.0)


def fine_tuned(scale: Scale, init_from: str, mask_ratio: float) -> StageConfig:
    """SFT on the subset `sft` of the data set, as 20,000 videos of the paper are (section 4); steps are open there."""
    steps, batch = scale.sft_steps, scale.sft_batch
    changes = {"init_from": init_from, "mask_ratio": mask_ratio, "subset": "sft"}
    return _stage(scale, "stiv", steps, batch, scale.high_px, **changes)


def giving(
    scale: Scale, init_from: str, given: tuple[GivenFrames, ...], **changes: Any
) -> StageConfig:
    """STIV with other given frames, such as for prediction and interpolation (section 5)."""
    steps, batch = scale.steps, scale.video_batch
    changes = {"init_from": init_from, "given": given, **changes}
    return _stage(scale, "stiv", steps, batch, scale.low_px, **changes)


def views(scale: Scale, init_from: str) -> StageConfig:
    """Seven views of an object as a clip, the first one given, with empty text (section 5, appendix J.3)."""
    return _stage(
        scale,
        "stiv",
        scale.views_steps,
        scale.video_batch,
        scale.views_px,
        init_from=init_from,
        num_frames=7,
        sampling_stride=1,
        text_dropout_prob=1.0,
    )


def classes(scale: Scale) -> StageConfig:
    """Videos of a class, from scratch (appendix H)."""
    frames = {"num_frames": scale.num_class_frames}
    return _stage(scale, "t2v", scale.steps, scale.video_batch, scale.classes_px, **frames)


def _stage(
    scale: Scale, task: str, num_steps: int, batch_size: int, side_px: int, **changes: Any
) -> StageConfig:
    values: dict[str, Any] = {
        "task": task,
        "num_steps": num_steps,
        "batch_size": batch_size,
        "sizes_px": ((side_px, side_px),),
        "num_frames": 1 if task == "t2i" else scale.num_frames,
        "mask_ratio": scale.mask_ratio,
        "optimizer": scale.optimizer,
        "ema_decay": scale.ema_decay,
        "validation": scale.validation,
        "checkpoint_every_steps": min(scale.checkpoint_every_steps, num_steps),
    }
    stage = StageConfig.model_validate({**values, **changes})
    return stage.model_copy(update={"micro_batch_size": _micro_batch(scale, stage)})


def _micro_batch(scale: Scale, stage: StageConfig) -> int | None:
    """The largest even part of a worker's share with no more than `tokens_at_once`, or a single clip."""
    if scale.tokens_at_once is None:
        return None
    ((height_px, width_px),) = stage.sizes_px
    clip = ClipShape(
        num_latent_frames=stage.num_frames,
        height=height_px // LATENT_DOWNSAMPLING,
        width=width_px // LATENT_DOWNSAMPLING,
        num_text_tokens=1,
    )
    patch = 1 if stage.task == "t2i" else scale.model.temporal_patch
    model = scale.model.model_copy(update={"temporal_patch": patch})
    tokens = token_grid(model, clip, stage.mask_ratio).num_processed
    share = stage.batch_size // scale.num_workers
    fitting = [
        n for n in range(1, share + 1) if share % n == 0 and n * tokens <= scale.tokens_at_once
    ]
    return max(fitting, default=1)
