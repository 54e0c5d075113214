"""One STIV block: spatial, temporal and cross attention and a feed-forward layer.

Sandwich norms, QK-norm and the shared modulation are STIV section 2.2, the factorised attention
section 2.1. Each can be switched off, as in the ablations of tables 2 and 6a. Choices the paper leaves open:

- order spatial, temporal, cross, feed-forward, the usual one of PixArt-style video models;
- cross attention has no norm around it and a zero-initialised output, as in PixArt: figure 3 shows six
  norm boxes in a block, which the other three layers use up;
- modulation is `1 + scale`; QK-norm is per head with a learned scale; every linear layer has a bias;
- temporal attention, which STIV leaves unmodulated, ends in a learned gate that starts at zero. A
  zero-initialised projection would not do: the norm after it makes any output unit-sized.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from modeling.config import STIVConfig
from modeling.embeddings import stateless_norm
from modeling.image_tokens import ImageTokens
from modeling.modulation import AdaLN, BlockModulation, Modulation, ModulationOffsets, modulate
from modeling.rope import Rotary, rotate

QK_NORM_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class BlockInputs:
    """What every block gets besides the tokens; computed once per forward pass."""

    condition_BD: Tensor
    """The singleton condition."""
    modulation: BlockModulation | None
    """That of all blocks, None where each has its own."""
    text_BLD: Tensor
    text_mask_BL: Tensor
    image: ImageTokens | None
    spatial_rotary: Rotary | None
    temporal_rotary: Rotary | None

    def at(self, spatial: Tensor, temporal: Tensor | None) -> Self:
        """The same for a subset of the spatial positions, and perhaps of the temporal ones."""
        return replace(
            self,
            spatial_rotary=None if self.spatial_rotary is None else self.spatial_rotary.at(spatial),
            temporal_rotary=self.temporal_rotary
            if self.temporal_rotary is None or temporal is None
            else self.temporal_rotary.at(temporal),
        )


class QKNorm(nn.RMSNorm):
    """RMS norm of each head's queries or keys."""

    def forward(self, x: Tensor) -> Tensor:
        # Under autocast x is bfloat16 and the weight is not, which keeps torch off its fused kernel.
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class SelfAttention(nn.Module):
    """Multi-head self-attention with RMS-normed queries and keys and rotary positions."""

    def __init__(self, config: STIVConfig, *, causal: bool = False) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.causal = causal
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.query_norm = _head_norm(config)
        self.key_norm = _head_norm(config)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_BLD: Tensor, positions: Rotary | None) -> Tensor:
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
    """Attention from all video tokens of a sample to other tokens of it: its text, or its given frames."""

    def __init__(self, config: STIVConfig) -> None:
        super().__init__()
        hidden_size = config.hidden_size
        self.num_heads = config.num_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size)
        self.query_norm = _head_norm(config)
        self.key_norm = _head_norm(config)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(self, x_BTSD: Tensor, others_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        query_BNQD = self._heads(self.query(x_BTSD.flatten(1, 2)))
        key_BLD, value_BLD = self.key_value(others_BLD).chunk(2, dim=-1)
        attended_BNQD = F.scaled_dot_product_attention(
            self.query_norm(query_BNQD),
            self.key_norm(self._heads(key_BLD)),
            self._heads(value_BLD),
            attn_mask=mask_BL[:, None, None, :],
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
    """Self-attention over the frames at each spatial position, added through a gate from zero.

    The gate is a learned vector, or that of the modulation where temporal attention is modulated.
    """

    def __init__(self, config: STIVConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config, causal=config.causal_temporal)
        self.gate_D = (
            None if config.temporal_modulation else Parameter(torch.empty(config.hidden_size))
        )
        self.post_norm = _post_norm(config)

    def forward(
        self, x_BTSD: Tensor, positions: Rotary | None, modulation: Modulation | None
    ) -> Tensor:
        """The gated branch only; the caller adds it to the tokens."""
        normed_BTSD, gate = stateless_norm(x_BTSD), self.gate_D
        if gate is None:
            assert modulation is not None, "the configuration gives one to both or to neither"
            normed_BTSD = modulate(normed_BTSD, modulation.shift_B11D, modulation.scale_B11D)
            gate = modulation.gate_B11D
        folded = normed_BTSD.transpose(1, 2).flatten(0, 1)
        attended_BSTD = self.attention(folded, positions).unflatten(0, (x_BTSD.shape[0], -1))
        return gate * self.post_norm(attended_BSTD).transpose(1, 2)


class STIVBlock(nn.Module):
    """Tokens in, tokens out, (B, T, S, D).

    A single temporal position skips temporal attention: it has nothing to attend to, and the network
    is then the image model, whatever its temporal weights.
    """

    def __init__(self, config: STIVConfig) -> None:
        super().__init__()
        self.modulation = AdaLN(config) if config.modulation == "per_block" else None
        self.offsets = (
            ModulationOffsets(config) if config.modulation == "shared_with_offsets" else None
        )
        self.spatial_attention = SelfAttention(config)
        self.temporal_attention = TemporalAttention(config) if config.temporal_attention else None
        self.cross_attention = CrossAttention(config)
        self.cross_gate_D = (
            Parameter(torch.empty(config.hidden_size)) if config.cross_attention_norm else None
        )
        self.image_attention = None if config.image_attention == "none" else CrossAttention(config)
        self.feed_forward = FeedForward(config.hidden_size, config.mlp_ratio)
        self.post_norm = _post_norm(config)

    def forward(self, x_BTSD: Tensor, inputs: BlockInputs) -> Tensor:
        modulation = self._modulation(inputs)
        shift, scale, gate = modulation.spatial
        x_XSD = modulate(stateless_norm(x_BTSD), shift, scale).flatten(0, 1)
        attended_BTSD = self.spatial_attention(x_XSD, inputs.spatial_rotary).view_as(x_BTSD)
        x_BTSD = x_BTSD + gate * self.post_norm(attended_BTSD)

        if self.temporal_attention is not None and x_BTSD.shape[1] > 1:
            x_BTSD = x_BTSD + self.temporal_attention(
                x_BTSD, inputs.temporal_rotary, modulation.temporal
            )

        x_BTSD = x_BTSD + self._attend_to_text(x_BTSD, inputs)
        if self.image_attention is not None and inputs.image is not None:
            x_BTSD = x_BTSD + self.image_attention(x_BTSD, *inputs.image)

        shift, scale, gate = modulation.feed_forward
        fed_BTSD = self.feed_forward(modulate(stateless_norm(x_BTSD), shift, scale))
        return x_BTSD + gate * self.post_norm(fed_BTSD)

    def _modulation(self, inputs: BlockInputs) -> BlockModulation:
        if self.modulation is not None:
            return self.modulation(inputs.condition_BD)
        assert inputs.modulation is not None, "blocks without modulation share that of the network"
        if self.offsets is not None:
            return self.offsets(inputs.modulation)
        return inputs.modulation

    def _attend_to_text(self, x_BTSD: Tensor, inputs: BlockInputs) -> Tensor:
        if self.cross_gate_D is None:
            return self.cross_attention(x_BTSD, inputs.text_BLD, inputs.text_mask_BL)
        attended_BTSD = self.cross_attention(
            stateless_norm(x_BTSD), inputs.text_BLD, inputs.text_mask_BL
        )
        return self.cross_gate_D * stateless_norm(attended_BTSD)


class FinalLayer(nn.Module):
    """Tokens to patches of the prediction, modulated by the singleton condition."""

    def __init__(self, config: STIVConfig) -> None:
        super().__init__()
        patch_size = config.temporal_patch * config.spatial_patch**2
        self.modulation = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.linear = nn.Linear(config.hidden_size, patch_size * config.latent_channels)

    def forward(self, x_BTSD: Tensor, condition_BD: Tensor) -> Tensor:
        shift, scale = self.modulation(F.silu(condition_BD))[:, None, None, :].chunk(2, dim=-1)
        return self.linear(modulate(stateless_norm(x_BTSD), shift, scale))


def _head_norm(config: STIVConfig) -> nn.Module:
    return QKNorm(config.head_width, eps=QK_NORM_EPS) if config.qk_norm else nn.Identity()


def _post_norm(config: STIVConfig) -> Callable[[Tensor], Tensor]:
    return stateless_norm if config.sandwich_norm else nn.Identity()
