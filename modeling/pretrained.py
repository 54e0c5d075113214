"""A trained model as a folder that anybody can open: weights, configuration, and the file of a fitted autoencoder.

DIR/model.safetensors         averaged weights of one stage
DIR/config.json               what they are weights of, and how to see and sample through them
DIR/autoencoder.safetensors   where the autoencoder was fitted on the data
DIR/README.md                 the model card
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from modeling.autoencoder import Autoencoder
from modeling.config import GuidanceConfig, SamplerConfig, STIVConfig
from modeling.conv_autoencoder import ConvAutoencoder
from modeling.errors import PretrainedError
from modeling.patch_pca import PatchPCA
from modeling.settings import FrozenModel
from modeling.stiv import STIV

FORMAT_VERSION = 1
WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
AUTOENCODER_NAME = "autoencoder.safetensors"
FITTED = {"patch_pca": PatchPCA, "conv": ConvAutoencoder}
"""Autoencoders that lie in the folder; others have a name on a hub."""


class PretrainedConfig(FrozenModel):
    """All that is needed beside the weights."""

    model: STIVConfig
    task: str
    """`t2i`, `t2v` or `stiv`: what the weights were trained for last."""
    height_px: int
    width_px: int
    num_frames: int
    sampling_stride: int
    """Every n-th frame of the sources was seen."""
    fps: float
    """Of the frames that were seen."""
    original_height_px: int
    """Median over the sources: what to ask for as a micro-condition."""
    original_width_px: int
    encoders: dict[str, Any]
    """The frozen encoders by name, and where those of a hub are found."""
    sampler: SamplerConfig
    guidance: GuidanceConfig
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Pretrained:
    """An opened model."""

    model: STIV
    config: PretrainedConfig
    autoencoder: Autoencoder | None
    """The one that was fitted on the data; None if `config.encoders` names one of a hub."""


def load_pretrained(folder: str | Path, device: torch.device | str = "cpu") -> Pretrained:
    """Open what `stiv export` wrote.

    Raises:
        PretrainedError: the folder holds no such model, or one of another version.
    """
    folder = Path(folder)
    try:
        config = PretrainedConfig.model_validate(json.loads((folder / CONFIG_NAME).read_bytes()))
        weights = load_file(folder / WEIGHTS_NAME)
    except (FileNotFoundError, ValidationError, ValueError, SafetensorError) as error:
        raise PretrainedError(
            f"{folder} holds no model that can be opened ({error}); expected {CONFIG_NAME} and {WEIGHTS_NAME} of "
            "`stiv export`"
        ) from error
    if config.format_version != FORMAT_VERSION:
        raise PretrainedError(
            f"{folder} has format_version {config.format_version}, this code reads {FORMAT_VERSION}; export it again"
        )
    model = STIV(config.model)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if wanted != {name: tuple(tensor.shape) for name, tensor in weights.items()}:
        raise PretrainedError(
            f"the weights in {folder} are not those of its {CONFIG_NAME}; export again"
        )
    model.load_state_dict(weights)
    fitted = FITTED.get(config.encoders["autoencoder"])
    autoencoder = None if fitted is None else fitted.load(folder / AUTOENCODER_NAME)
    return Pretrained(model.to(device).eval(), config, autoencoder)
