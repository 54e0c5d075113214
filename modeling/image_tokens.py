"""Given frames as tokens to attend to: the image cross-attention that STIV compares with (table 3).

The paper names "image cross-attention" and a "larger projector (ResNet-2D encoder)" and prints no more. Here the
clean latents of the given frames are projected to tokens of their own, with a fixed grid of positions, and
a learned token stands for the absent image.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from modeling.conditioning import Conditions
from modeling.config import STIVConfig
from modeling.embeddings import grid_positions, patchify
from modeling.settings import NUM_RESIDUAL_BLOCKS

NUM_GROUPS = 8


class ImageTokens(NamedTuple):
    """Tokens of the given frames, and which of them a sample has (True)."""

    tokens_BLD: Tensor
    mask_BL: Tensor


class ImageProjector(nn.Module):
    """Clean latents of the given frames to tokens of the width of the network."""

    def __init__(self, config: STIVConfig) -> None:
        super().__init__()
        self.spatial_patch = config.spatial_patch
        patch_size = config.spatial_patch**2 * config.latent_channels
        self.encoder = (
            ResidualEncoder(config.latent_channels, config.hidden_size)
            if config.image_attention == "resnet"
            else None
        )
        if self.encoder is not None:
            patch_size = config.spatial_patch**2 * config.hidden_size
        self.output = nn.Linear(patch_size, config.hidden_size)
        self.absent_D = Parameter(torch.empty(config.hidden_size))

    def forward(self, conditions: Conditions) -> ImageTokens:
        """Tokens of every frame that is given to some sample, and the one of no image, which all samples have."""
        given_BF = conditions.given_BF
        batch, device = given_BF.shape[0], given_BF.device
        absent_B1D = self.absent_D.expand(batch, 1, -1)
        everywhere_B1 = torch.ones(batch, 1, dtype=torch.bool, device=device)
        frames_F = given_BF.any(0).nonzero().flatten()
        if len(frames_F) == 0:
            return ImageTokens(absent_B1D, everywhere_B1)
        latents_BCFHW = conditions.given_latents_BCFHW[:, :, frames_F].to(self.output.weight.dtype)
        if self.encoder is not None:
            latents_BCFHW = self.encoder(latents_BCFHW)
        tokens_BFSD = self.output(patchify(latents_BCFHW, 1, self.spatial_patch))
        rows = latents_BCFHW.shape[3] // self.spatial_patch
        columns = latents_BCFHW.shape[4] // self.spatial_patch
        tokens_BFSD = tokens_BFSD + grid_positions(rows, columns, tokens_BFSD.shape[-1], device)
        mask_BFS = given_BF[:, frames_F, None].expand(-1, -1, rows * columns)
        return ImageTokens(
            torch.cat([absent_B1D, tokens_BFSD.flatten(1, 2)], dim=1),
            torch.cat([everywhere_B1, mask_BFS.flatten(1)], dim=1),
        )


class ResidualEncoder(nn.Module):
    """The larger projector: residual blocks of 3x3 convolutions at the resolution of the latents."""

    def __init__(self, latent_channels: int, width: int) -> None:
        super().__init__()
        self.input = nn.Conv2d(latent_channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(NUM_RESIDUAL_BLOCKS))

    def forward(self, latents_BCFHW: Tensor) -> Tensor:
        x_XCHW = self.input(latents_BCFHW.transpose(1, 2).flatten(0, 1))
        for block in self.blocks:
            x_XCHW = block(x_XCHW)
        return x_XCHW.unflatten(0, (latents_BCFHW.shape[0], -1)).transpose(1, 2)


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first_norm = nn.GroupNorm(NUM_GROUPS, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second_norm = nn.GroupNorm(NUM_GROUPS, width)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_XCHW: Tensor) -> Tensor:
        inner = self.first(F.silu(self.first_norm(x_XCHW)))
        return x_XCHW + self.second(F.silu(self.second_norm(inner)))
