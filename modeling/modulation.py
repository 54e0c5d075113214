"""AdaLN: the singleton condition to scale, shift and gate of the layers of a block (STIV section 2.2)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from modeling.config import STIVConfig


class Modulation(NamedTuple):
    """Shift, scale and gate of a layer; each broadcasts over the tokens of a sample."""

    shift_B11D: Tensor
    scale_B11D: Tensor
    gate_B11D: Tensor


class BlockModulation(NamedTuple):
    """Those of the layers of a block that are modulated; temporal attention only as an ablation (table 6a)."""

    spatial: Modulation
    feed_forward: Modulation
    temporal: Modulation | None


class AdaLN(nn.Module):
    """One layer from the singleton condition to six vectors, nine with temporal attention."""

    def __init__(self, config: STIVConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.hidden_size, 6 * config.hidden_size)
        # Apart, and by this name: weights of an image model lack it, and `inflate` leaves it fresh.
        self.temporal_attention = (
            nn.Linear(config.hidden_size, 3 * config.hidden_size)
            if _modulates_time(config)
            else None
        )

    def forward(self, condition_BD: Tensor) -> BlockModulation:
        active_BD = F.silu(condition_BD)
        parts = self.linear(active_BD)[:, None, None, :].chunk(6, dim=-1)
        temporal = None
        if self.temporal_attention is not None:
            temporal = Modulation(
                *self.temporal_attention(active_BD)[:, None, None, :].chunk(3, dim=-1)
            )
        return BlockModulation(Modulation(*parts[:3]), Modulation(*parts[3:]), temporal)


class ModulationOffsets(nn.Module):
    """What a block adds to the modulation that all share (PixArt's scale-shift table). Starts at zero."""

    def __init__(self, config: STIVConfig) -> None:
        super().__init__()
        self.spatial_3D = Parameter(torch.empty(3, config.hidden_size))
        self.feed_forward_3D = Parameter(torch.empty(3, config.hidden_size))
        self.temporal_attention = (
            Parameter(torch.empty(3, config.hidden_size)) if _modulates_time(config) else None
        )

    def forward(self, shared: BlockModulation) -> BlockModulation:
        temporal = shared.temporal
        if temporal is not None and self.temporal_attention is not None:
            temporal = _shifted(temporal, self.temporal_attention)
        return BlockModulation(
            _shifted(shared.spatial, self.spatial_3D),
            _shifted(shared.feed_forward, self.feed_forward_3D),
            temporal,
        )


def modulate(x_BTSD: Tensor, shift_B11D: Tensor, scale_B11D: Tensor) -> Tensor:
    return x_BTSD * (1 + scale_B11D) + shift_B11D


def _shifted(modulation: Modulation, offsets_3D: Tensor) -> Modulation:
    pairs = zip(modulation, offsets_3D, strict=True)
    return Modulation(*(part + offset_D for part, offset_D in pairs))


def _modulates_time(config: STIVConfig) -> bool:
    return config.temporal_attention and config.temporal_modulation
