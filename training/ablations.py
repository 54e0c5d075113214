"""The tables of the paper that compare designs, as overrides of a run: each row is one switch.

Table 2 is cumulative: each row adds its overrides to those of the rows above it, from the PixArt-like baseline up to
the model that STIV adopts. Tables 3 and 6a change the adopted model one row at a time.
"""

from collections.abc import Mapping
from typing import Any

from training.config import TrainConfig

Overrides = Mapping[str, Any]
"""Path of a field, such as `model.qk_norm`, to its value; `stages.*` means every stage."""

TABLE_2: dict[str, Overrides] = {
    "Baseline": {
        "model.qk_norm": False,
        "model.sandwich_norm": False,
        "model.condition_norm": False,
        "model.contract.prediction": "noise",
        "model.modulation": "per_block",
        "model.micro_conditions": False,
        "model.rotary_positions": False,
        "model.absolute_positions": "sinusoidal",
        "sampler.solver": "euler",
        "guidance.renormalize": False,
        "stages.*.mask_ratio": 0.0,
        "stages.*.timesteps": "uniform",
        "stages.*.optimizer.name": "adamw",
        "stages.*.optimizer.learning_rate": 1e-4,
        "data.caption_weights": {"original": 1.0},
    },
    "+ QK norm": {"model.qk_norm": True},
    "+ Sandwich norm": {"model.sandwich_norm": True},
    "+ Cond. norm": {"model.condition_norm": True},
    "+ LR 2e-4": {"stages.*.optimizer.learning_rate": 2e-4},
    "+ Flow": {"model.contract.prediction": "velocity", "stages.*.timesteps": "logit_normal"},
    "+ Renorm": {"guidance.renormalize": True},
    "+ AdaFactor": {"stages.*.optimizer.name": "adafactor"},
    "+ MaskDiT": {"stages.*.mask_ratio": 0.5},
    "+ Shared AdaLN": {"model.modulation": "shared"},
    "+ Micro cond.": {"model.micro_conditions": True},
    "+ RoPE": {"model.rotary_positions": True, "model.absolute_positions": "none"},
    # The paper's own encoders are not public: an autoencoder of 8 channels, and the public text tower of their geometry.
    "+ Internal VAE": {"model.latent_channels": 8},
    "+ Internal CLIP": {
        "encoders.text_encoder_model": "ViT-bigG-14",
        "encoders.text_encoder_weights": "laion2b_s39b_b160k",
        "model.text_width": 1280,
        "model.pooled_text_width": 1280,
    },
    "+ Synth. captions": {"data.caption_weights": {"original": 0.1, "main": 0.9}},
}
"""T2I, section 3.2. Of the captions the paper says that both are mixed; one original in ten is DiT-Air's mix."""

TABLE_2_ENCODERS = ("+ Internal VAE", "+ Internal CLIP")
"""The rows that need other frozen encoders than a run has by default."""

TABLE_3: dict[str, Overrides] = {
    "CA": {"model.image_attention": "linear", "model.contract.frame_replacement": False},
    "CA+FFL": {
        "model.image_attention": "linear",
        "model.contract.frame_replacement": False,
        "stages.*.loss_on_given_frames": True,
    },
    "CA+LP": {"model.image_attention": "resnet", "model.contract.frame_replacement": False},
    "FR": {},
    "FR+CA": {"model.image_attention": "linear"},
    "FR+CA+LP": {"model.image_attention": "resnet"},
    "FR+CA+LP+FFL": {"model.image_attention": "resnet", "stages.*.loss_on_given_frames": True},
}
"""TI2V: frame replacement (FR), image cross-attention (CA), larger projector (LP), first-frame loss (FFL)."""

TABLE_4: dict[str, Overrides] = {
    "STIV": {"stages.*.image_dropout_prob": 0.0},
    "STIV-JIT": {"stages.*.image_dropout_prob": 0.08, "guidance.scheme": "joint"},
}
"""With and without image dropout; the T2V row is the stage before."""

TABLE_6A: dict[str, Overrides] = {
    "Base": {},
    "temporal patch 1": {"model.temporal_patch": 1},
    "temporal patch 4": {"model.temporal_patch": 4},
    "causal temporal attention": {"model.causal_temporal": True},
    "+ temporal scale/shift/gate": {"model.temporal_modulation": True},
    "+ temporal mask": {"stages.*.temporal_mask_ratio": 0.5},
    "- spatial mask": {"stages.*.mask_ratio": 0.0},
}
"""T2V, section 3.3."""


def cumulative(table: Mapping[str, Overrides], row: str) -> dict[str, Any]:
    """The overrides of a row and of all rows above it."""
    total: dict[str, Any] = {}
    for name, overrides in table.items():
        total |= overrides
        if name == row:
            return total
    raise KeyError(f"no row {row!r}; the table has {', '.join(table)}")


def without_encoders(overrides: Overrides) -> dict[str, Any]:
    """What is left of a row where the frozen encoders are the embedded ones, of which there are no others."""
    theirs = ("encoders.", "model.latent_channels", "model.text_width", "model.pooled_text_width")
    return {path: value for path, value in overrides.items() if not path.startswith(theirs)}


def with_overrides(config: TrainConfig, overrides: Overrides) -> TrainConfig:
    """The run of one row.

    Raises:
        KeyError: a path names no field.
        ValueError: the values do not fit together.
    """
    values = config.model_dump(mode="json")
    for path, value in overrides.items():
        for place in _expand(path, list(config.stages)):
            _set(values, place, value)
    return TrainConfig.model_validate(values)


def _expand(path: str, stages: list[str]) -> list[list[str]]:
    parts = path.split(".")
    if parts[:2] != ["stages", "*"]:
        return [parts]
    return [["stages", stage, *parts[2:]] for stage in stages]


def _set(values: dict[str, Any], place: list[str], value: Any) -> None:
    *folders, field = place
    for folder in folders:
        values = values[folder]
    if field not in values:
        raise KeyError(f"no field {'.'.join(place)}; valid: {', '.join(values)}")
    values[field] = value
