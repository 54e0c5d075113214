"""One STIV block: spatial, temporal and cross attention and a feed-forward layer.

Sandwich norms, QK-norm and the shared modulation are STIV section 2.2, the factorised attention
section 2.1. Choices the paper leaves open:

- order spatial, temporal, cross, feed-forward, the usual one of PixArt-style video models;
- cross attention has no norm around it and a zero-initialised output, as in PixArt: figure 3 shows six
  norm boxes in a block, which the other three layers use up;
- modulation is `1 + scale`; QK-norm is per head with a learned scale; every linear layer has a bias;
- temporal attention, which STIV leaves unmodulated, ends in a learned gate that starts at zero. A
  zero-initialised projection would not do: the norm after it makes any output unit-sized.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from modeling.config import STIVConfig
from modeling.embeddings import stateless_norm
from modeling.rope import Rotary, rotate

QK_NORM_EPS = 1e-6


class Modulation(NamedTuple):
    """Shift, scale and gate of a layer; each broadcasts over the tokens of a sample."""

    shift_B11D: Tensor
    scale_B11D: Tensor
    gate_B11D: Tensor


@dataclass(frozen=True, slots=True)
class BlockInputs:
    """What every block gets besides the tokens; computed once per forward pass."""

    spatial_modulation: Modulation
    feed_forward_modulation: Modulation
    text_BLD: Tensor
    text_mask_BL: Tensor
    spatial_rotary: Rotary
    temporal_rotary: Rotary

    def at(self, positions: Tensor) -> Self:
        """The same for a subset of the spatial positions."""
        return replace(self, spatial_rotary=self.spatial_rotary.at(positions))


class QKNorm(nn.RMSNorm):
    """RMS norm of each head's queries or keys."""

    def forward(self, x: Tensor) -> Tensor:
        # Under autocast x is bfloat16 and the weight is not, which keeps torch off its fused kernel.
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class SelfAttention(nn.Module):
    """Multi-head self-attention with RMS-normed queries and keys and rotary positions."""

    def __init__(self, hidden_size: int, num_heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.causal = causal
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.query_norm = QKNorm(hidden_size // num_heads, eps=QK_NORM_EPS)
        self.key_norm = QKNorm(hidden_size // num_heads, eps=QK_NORM_EPS)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(self, x_BLD: Tensor, positions: Rotary) -> Tensor:
        heads_BL3ND = self.qkv(x_BLD).unflatten(-1, (3, self.num_heads, -1))
        query_BNLD, key_BNLD, value_BNLD = heads_BL3ND.permute(2, 0, 3, 1, 4)
        attended_BNLD = F.scaled_dot_product_attention(
            rotate(self.query_norm(query_BNLD), positions),
            rotate(self.key_norm(key_BNLD), positions),
            value_BNLD,
            is_causal=self.causal,
        )
        return self.output(attended_BNLD.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention from all video tokens of a sample to its text tokens."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size)
        self.query_norm = QKNorm(hidden_size // num_heads, eps=QK_NORM_EPS)
        self.key_norm = QKNorm(hidden_size // num_heads, eps=QK_NORM_EPS)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(self, x_BTSD: Tensor, text_BLD: Tensor, text_mask_BL: Tensor) -> Tensor:
        query_BNQD = self._heads(self.query(x_BTSD.flatten(1, 2)))
        key_BLD, value_BLD = self.key_value(text_BLD).chunk(2, dim=-1)
        attended_BNQD = F.scaled_dot_product_attention(
            self.query_norm(query_BNQD),
            self.key_norm(self._heads(key_BLD)),
            self._heads(value_BLD),
            attn_mask=text_mask_BL[:, None, None, :],
        )
        attended_BTSD = attended_BNQD.transpose(1, 2).flatten(2).view_as(x_BTSD)
        return self.output(attended_BTSD)

    def _heads(self, x_BLD: Tensor) -> Tensor:
        return x_BLD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    def __init__(self, hidden_size: int, mlp_ratio: float) -> None:
        super().__init__()
        inner_size = int(hidden_size * mlp_ratio)
        self.hidden = nn.Linear(hidden_size, inner_size)
        self.output = nn.Linear(inner_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(F.gelu(self.hidden(x), approximate="tanh"))


class TemporalAttention(nn.Module):
    """Self-attention over the frames at each spatial position, added through a gate from zero."""

    def __init__(self, config: STIVConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(
            config.hidden_size, config.num_heads, causal=config.causal_temporal
        )
        self.gate_D = Parameter(torch.empty(config.hidden_size))

    def forward(self, x_BTSD: Tensor, positions: Rotary) -> Tensor:
        """The gated branch only; the caller adds it to the tokens."""
        folded = stateless_norm(x_BTSD).transpose(1, 2).flatten(0, 1)
        attended_BSTD = self.attention(folded, positions).unflatten(0, (x_BTSD.shape[0], -1))
        return self.gate_D * stateless_norm(attended_BSTD).transpose(1, 2)


class STIVBlock(nn.Module):
    """Tokens in, tokens out, (B, T, S, D).

    A single temporal position skips temporal attention: it has nothing to attend to, and the network
    is then the image model, whatever its temporal weights.
    """

    def __init__(self, config: STIVConfig) -> None:
        super().__init__()
        self.spatial_attention = SelfAttention(config.hidden_size, config.num_heads)
        self.temporal_attention = TemporalAttention(config) if config.temporal_attention else None
        self.cross_attention = CrossAttention(config.hidden_size, config.num_heads)
        self.feed_forward = FeedForward(config.hidden_size, config.mlp_ratio)

    def forward(self, x_BTSD: Tensor, inputs: BlockInputs) -> Tensor:
        shift, scale, gate = inputs.spatial_modulation
        x_XSD = modulate(stateless_norm(x_BTSD), shift, scale).flatten(0, 1)
        attended_BTSD = self.spatial_attention(x_XSD, inputs.spatial_rotary).view_as(x_BTSD)
        x_BTSD = x_BTSD + gate * stateless_norm(attended_BTSD)

        if self.temporal_attention is not None and x_BTSD.shape[1] > 1:
            x_BTSD = x_BTSD + self.temporal_attention(x_BTSD, inputs.temporal_rotary)

        x_BTSD = x_BTSD + self.cross_attention(x_BTSD, inputs.text_BLD, inputs.text_mask_BL)

        shift, scale, gate = inputs.feed_forward_modulation
        fed_BTSD = self.feed_forward(modulate(stateless_norm(x_BTSD), shift, scale))
        return x_BTSD + gate * stateless_norm(fed_BTSD)


class SharedModulation(nn.Module):
    """One AdaLN for all blocks: the singleton condition to six vectors (STIV section 2.2)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 6 * hidden_size)

    def forward(self, condition_BD: Tensor) -> tuple[Modulation, Modulation]:
        """Modulation of spatial attention, and of the feed-forward layer."""
        parts = self.linear(F.silu(condition_BD))[:, None, None, :].chunk(6, dim=-1)
        return Modulation(*parts[:3]), Modulation(*parts[3:])


class FinalLayer(nn.Module):
    """Tokens to velocity patches, modulated by the singleton condition."""

    def __init__(self, config: STIVConfig) -> None:
        super().__init__()
        patch_size = config.temporal_patch * config.spatial_patch**2
        self.modulation = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.linear = nn.Linear(config.hidden_size, patch_size * config.latent_channels)

    def forward(self, x_BTSD: Tensor, condition_BD: Tensor) -> Tensor:
        shift, scale = self.modulation(F.silu(condition_BD))[:, None, None, :].chunk(2, dim=-1)
        return self.linear(modulate(stateless_norm(x_BTSD), shift, scale))


def modulate(x_BTSD: Tensor, shift_B11D: Tensor, scale_B11D: Tensor) -> Tensor:
    return x_BTSD * (1 + scale_B11D) + shift_B11D
