"""The runs of the paper, at any scale: each is a chain of stages with the weight flow of section 2.4.

Common to all: stride 3, text dropout 10% and image dropout 8% (appendix B), AdaFactor 0.9 / 0.999, clipping at 1.0
(section 3.1), guidance with renormalisation (section 3.2). Open in the paper and chosen here: logit-normal timesteps
and 50 Heun steps (as DiT-Air), numeric precision, number of workers and micro-batches.
"""

from typing import Any

from modeling.config import GuidanceConfig, SamplerConfig
from training.config import DataConfig, StageConfig, TrainConfig
from training.recipes import stages
from training.recipes.scales import Scale
from training.recipes.ucf101 import UCF101_CLASSES

STRIDE = 3
KEY_FRAME_STRIDE = 20


def stiv_low(scale: Scale) -> TrainConfig:
    """T2I, T2V and STIV at low resolution, and the fine-tuning of images and of STIV without masking."""
    chain = _low_chain(scale)
    low = scale.low_px
    chain[f"stiv_{low}_unmasked"] = stages.stiv_unmasked(scale, f"stiv_{low}", low)
    chain = {
        f"t2i_{low}": chain.pop(f"t2i_{low}"),
        f"t2i_{low}_unmasked": stages.images_low_unmasked(scale, f"t2i_{low}"),
        **chain,
    }
    return _run(scale, f"stiv_{scale.name}_{low}", chain)


def stiv_high(scale: Scale) -> TrainConfig:
    """The whole progressive recipe: images low and high, videos low, videos high from both, STIV high (section 2.4)."""
    return _run(scale, f"stiv_{scale.name}_{scale.high_px}", _high_chain(scale))


def fine_tuned(scale: Scale) -> TrainConfig:
    """The progressive recipe with supervised fine-tuning at its end, masked and unmasked (section 4)."""
    chain, high = _high_chain(scale), scale.high_px
    chain[f"sft_{high}"] = stages.fine_tuned(scale, f"stiv_{high}", scale.mask_ratio)
    chain[f"sft_{high}_unmasked"] = stages.fine_tuned(scale, f"stiv_{high}", 0.0)
    return _run(scale, f"sft_{scale.name}_{high}", chain)


def long_clips(scale: Scale) -> TrainConfig:
    """Twice the frames, from clips at twice the stride, with interpolated positions (section 2.4, table 6c)."""
    low, few, many = scale.low_px, scale.num_frames, 2 * scale.num_frames
    chain = {
        f"t2i_{low}": stages.images_low(scale),
        f"t2v_{low}_{few}": stages.videos_low(scale, f"t2i_{low}", sampling_stride=2 * STRIDE),
        f"t2v_{low}_{many}": stages.videos_low(scale, f"t2v_{low}_{few}", num_frames=many),
    }
    return _run(scale, f"t2v_{scale.name}_{low}_{many}", chain)


def prediction(scale: Scale) -> TrainConfig:
    """Video prediction: the first four frames are given (STIV-V2V, section 5 and appendix J.1)."""
    chain, low = _low_chain(scale), scale.low_px
    chain["v2v"] = stages.giving(scale, f"stiv_{low}", ("first_four",))
    return _run(scale, f"v2v_{scale.name}_{low}", chain)


def upsampling(scale: Scale) -> TrainConfig:
    """Temporal upsampling: every second frame of a clip at stride 1 is given (STIV-TUP, section 5, J.2)."""
    chain, low = _low_chain(scale), scale.low_px
    chain["tup"] = stages.giving(scale, f"stiv_{low}", ("every_second",), sampling_stride=1)
    return _run(scale, f"tup_{scale.name}_{low}", chain)


def long_video(scale: Scale) -> TrainConfig:
    """Key frames at stride 20, and a stage that fills the gap between two given frames (section 5)."""
    chain, low = _low_chain(scale), scale.low_px
    chain["key_frames"] = stages.giving(
        scale, f"stiv_{low}", ("first",), sampling_stride=KEY_FRAME_STRIDE
    )
    chain["interpolation"] = stages.giving(
        scale, f"stiv_{low}", ("first_and_last",), sampling_stride=1
    )
    return _run(scale, f"long_video_{scale.name}_{low}", chain)


def multi_view(scale: Scale) -> TrainConfig:
    """Six further views from one; a dropped view leaves zeros behind (section 5, appendix J.3)."""
    chain, low = _low_chain(scale), scale.low_px
    chain["views"] = stages.views(scale, f"stiv_{low}")
    run = _run(scale, f"multi_view_{scale.name}_{scale.views_px}", chain)
    contract = run.model.contract.model_copy(update={"null_image": "zeros"})
    changes: dict[str, Any] = {
        "model": run.model.model_copy(update={"contract": contract}),
        "guidance": run.guidance.model_copy(update={"text_scale": scale.views_guidance_scale}),
    }
    return run.model_copy(update=changes)


def class_to_video(scale: Scale) -> TrainConfig:
    """Videos of the 101 classes of UCF-101, from scratch; the captions are names of classes (appendix H)."""
    run = _run(
        scale,
        f"class_to_video_{scale.name}_{scale.classes_px}",
        {"classes": stages.classes(scale)},
    )
    encoders = {
        **run.encoders.model_dump(),
        "text_encoder": "class_labels",
        "text_encoder_model": None,
        "text_encoder_weights": None,
        "class_names": UCF101_CLASSES,
    }
    width = len(UCF101_CLASSES) + 1  # one for no class
    model = {**run.model.model_dump(), "text_width": width, "pooled_text_width": width}
    return TrainConfig.model_validate({**run.model_dump(), "encoders": encoders, "model": model})


def _low_chain(scale: Scale) -> dict[str, StageConfig]:
    low = scale.low_px
    return {
        f"t2i_{low}": stages.images_low(scale),
        f"t2v_{low}": stages.videos_low(scale, f"t2i_{low}"),
        f"stiv_{low}": stages.stiv_low(scale, f"t2v_{low}"),
    }


def _high_chain(scale: Scale) -> dict[str, StageConfig]:
    low, high = scale.low_px, scale.high_px
    return {
        f"t2i_{low}": stages.images_low(scale),
        f"t2i_{high}": stages.images_high(scale, f"t2i_{low}"),
        f"t2v_{low}": stages.videos_low(scale, f"t2i_{low}"),
        f"t2v_{high}": stages.videos_high(scale, f"t2i_{high}", f"t2v_{low}"),
        f"stiv_{high}": stages.stiv_high(scale, f"t2v_{high}"),
        f"stiv_{high}_unmasked": stages.stiv_unmasked(scale, f"stiv_{high}", high),
    }


def _run(scale: Scale, name: str, chain: dict[str, StageConfig]) -> TrainConfig:
    # Positions are interpolated into the range of the first stages where a later one has more (section 2.4).
    side = scale.low_px // (8 * scale.model.spatial_patch)
    length = scale.num_frames // scale.model.temporal_patch
    is_paper = scale.device == "cuda"
    return TrainConfig(
        name=name,
        model=scale.model.model_copy(update={"rotary_grid": (length, side, side)}),
        encoders=scale.encoders,
        data=DataConfig(
            height_px=scale.low_px,
            width_px=scale.low_px,
            sampling_stride=STRIDE,
            cache_bytes=scale.cache_bytes,
        ),
        stages=chain,
        sampler=SamplerConfig(solver="heun" if is_paper else "euler", num_sampling_steps=50),
        guidance=GuidanceConfig(text_scale=scale.guidance_scale),
        device=scale.device,
        precision="bfloat16" if is_paper else "float32",
        sharding=scale.sharding,
        recompute=scale.recompute,
        num_workers=scale.num_workers,
    )
