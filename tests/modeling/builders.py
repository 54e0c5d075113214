"""Small networks and inputs: a test names only what it is about."""

from typing import Any

import torch
from torch import Tensor

from modeling.conditioning import Conditions, MicroConditions, TextFeatures
from modeling.config import STIVConfig, preset
from modeling.stiv import STIV

CHANNELS = 4
TEXT_WIDTH = 12
POOLED_WIDTH = 10


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def small_config(**changes: Any) -> STIVConfig:
    fields = {"hidden_size": 32, "depth": 2, "num_heads": 2, "frequency_width": 16, **changes}
    return preset(
        "tiny",
        latent_channels=CHANNELS,
        text_width=TEXT_WIDTH,
        pooled_text_width=POOLED_WIDTH,
        **fields,
    )


def small_model(**changes: Any) -> STIV:
    """A network as built: its output is zero."""
    return STIV(small_config(**changes))


@torch.no_grad()
def randomize(model: STIV, seed: int = 0) -> STIV:
    """Move every weight, so that no branch is off and the output depends on every input."""
    generator = seeded(seed)
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def text_features(batch: int, num_tokens: int = 5, *, seed: int = 0) -> TextFeatures:
    """The last token of every row but the first is padding."""
    mask_BL = torch.ones(batch, num_tokens, dtype=torch.bool)
    mask_BL[1:, -1] = False
    return TextFeatures(
        tokens_BLD=randn(batch, num_tokens, TEXT_WIDTH, seed=seed),
        mask_BL=mask_BL,
        pooled_BD=randn(batch, POOLED_WIDTH, seed=seed + 1),
    )


def conditions(
    x: Tensor, *, given: tuple[int, ...] = (), given_latents: Tensor | None = None, seed: int = 0
) -> Conditions:
    """Conditions for latents of the shape of `x`, with the named frames given in every row."""
    batch, num_frames = x.shape[0], x.shape[2]
    given_BF = torch.zeros(batch, num_frames, dtype=torch.bool)
    given_BF[:, list(given)] = True
    micro = MicroConditions(
        original_size_B2=torch.tensor([[360.0, 640.0]]).repeat(batch, 1),
        crop_top_left_B2=torch.arange(2.0 * batch).view(batch, 2),
        sampling_stride_B=torch.full((batch,), 3.0),
        num_frames_B=torch.full((batch,), float(num_frames)),
    )
    return Conditions(
        text=text_features(batch, seed=seed),
        micro=micro,
        given_BF=given_BF,
        given_latents_BCFHW=torch.zeros_like(x) if given_latents is None else given_latents,
    )


def latents(batch: int = 2, num_frames: int = 4, *, seed: int = 0) -> Tensor:
    """Latents of 4x6: six spatial positions with a patch of 2."""
    return randn(batch, CHANNELS, num_frames, 4, 6, seed=seed)


def times(batch: int = 2) -> Tensor:
    return torch.linspace(0.2, 0.8, batch)


def smooth_frames(count: int, *, seed: int = 0, height: int = 64, width: int = 96) -> Tensor:
    """Blurred colour noise with an edge: uint8 (count, height, width, 3)."""
    coarse = torch.rand(count, 3, 6, 8, generator=seeded(seed))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    smooth[:, :, :, width // 2 + 3 :] *= 0.6
    return (smooth.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).contiguous()
