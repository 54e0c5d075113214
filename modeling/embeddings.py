"""Tokens in and out of the network, and the embeddings of time, text and micro-conditions."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.conditioning import Conditions, MicroConditions
from modeling.config import STIVConfig

TIMESTEP_SCALE = 1000.0
"""t in [0, 1] is stretched to the range that sinusoidal features of the DiT family resolve."""


MAX_LEARNED_POSITIONS = 128


def stateless_norm(x: Tensor) -> Tensor:
    """LayerNorm over the last axis without parameters (STIV section 2.2)."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def pad_frames(x_BCFHW: Tensor, temporal_patch: int) -> Tensor:
    """Repeat the last latent frame until the count is a multiple of `temporal_patch`.

    So an image fills its token with copies of itself, which is what a static clip does too.
    """
    missing = -x_BCFHW.shape[2] % temporal_patch
    if missing == 0:
        return x_BCFHW
    return torch.cat([x_BCFHW, x_BCFHW[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)


def patchify(x_BCFHW: Tensor, temporal_patch: int, spatial_patch: int) -> Tensor:
    """Cut latents into tokens (B, T, S, P), S in row-major order.

    P runs over (frame, channel, row, column) of a patch, frame slowest: inflating weights over time
    (see `modeling.inflate`) is then a plain repetition.
    """
    batch, channels, frames, height, width = x_BCFHW.shape
    pt, ps = temporal_patch, spatial_patch
    x = x_BCFHW.reshape(batch, channels, frames // pt, pt, height // ps, ps, width // ps, ps)
    x = x.permute(0, 2, 4, 6, 3, 1, 5, 7)
    return x.reshape(batch, frames // pt, (height // ps) * (width // ps), -1)


def unpatchify(x_BTSP: Tensor, rows: int, temporal_patch: int, spatial_patch: int) -> Tensor:
    """The inverse of `patchify`; `rows` is the number of tokens along the height."""
    batch, num_temporal, num_spatial, _ = x_BTSP.shape
    columns = num_spatial // rows
    pt, ps = temporal_patch, spatial_patch
    x = x_BTSP.reshape(batch, num_temporal, rows, columns, pt, -1, ps, ps)
    x = x.permute(0, 5, 1, 4, 2, 6, 3, 7)
    return x.reshape(batch, -1, num_temporal * pt, rows * ps, columns * ps)


def sinusoidal(values_B: Tensor, width: int) -> Tensor:
    """Cosines and sines of a scalar at geometric frequencies from 1 to 1/10000."""
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=values_B.device) / half
    angles = values_B.float()[:, None] * torch.exp(-math.log(10_000.0) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def grid_positions(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """Fixed sinusoidal features (rows * columns, width), half of them for the row, row-major order."""
    row_R = torch.arange(rows, dtype=torch.float32, device=device)
    column_C = torch.arange(columns, dtype=torch.float32, device=device)
    of_row = sinusoidal(row_R, width // 2).repeat_interleave(columns, 0)
    of_column = sinusoidal(column_C, width // 2).repeat(rows, 1)
    return torch.cat([of_row, of_column], dim=1)


class ScalarEmbedding(nn.Module):
    """Sinusoidal features of a few scalars, side by side, through one MLP."""

    def __init__(self, num_scalars: int, frequency_width: int, hidden_size: int) -> None:
        super().__init__()
        self.frequency_width = frequency_width
        self.hidden = nn.Linear(num_scalars * frequency_width, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(self, values_BK: Tensor) -> Tensor:
        features = [sinusoidal(values_B, self.frequency_width) for values_B in values_BK.unbind(1)]
        features_BD = torch.cat(features, dim=1).to(self.hidden.weight.dtype)
        return self.output(F.silu(self.hidden(features_BD)))


class TextProjection(nn.Module):
    """Token states of the text encoder to the width of the network (PixArt's caption projection)."""

    def __init__(self, config: STIVConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.text_width, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        tokens = tokens_BLD.to(self.hidden.weight.dtype)
        return self.output(F.gelu(self.hidden(tokens), approximate="tanh"))


class SingletonCondition(nn.Module):
    """Timestep, pooled text and each micro-condition, normed one by one, then summed.

    STIV section 2.1 and appendix D. Whether the micro-conditions share a norm is not printed; each has
    its own here, so none of them can drown another. Norms and micro-conditions can be left out (table 2).
    """

    def __init__(self, config: STIVConfig) -> None:
        super().__init__()
        frequency_width, hidden_size = config.frequency_width, config.hidden_size
        self.norm: Callable[[Tensor], Tensor] = (
            stateless_norm if config.condition_norm else nn.Identity()
        )
        self.timestep = ScalarEmbedding(1, frequency_width, hidden_size)
        self.pooled_text = nn.Linear(config.pooled_text_width, hidden_size)
        self.micro = MicroConditionEmbedding(config) if config.micro_conditions else None

    def forward(self, t_B: Tensor, conditions: Conditions) -> Tensor:
        pooled_BD = conditions.text.pooled_BD.to(self.pooled_text.weight.dtype)
        total_BD = self.norm(self.timestep(TIMESTEP_SCALE * t_B[:, None]))
        total_BD = total_BD + self.norm(self.pooled_text(pooled_BD))
        if self.micro is not None:
            for part_BD in self.micro(conditions.micro):
                total_BD = total_BD + self.norm(part_BD)
        return total_BD


class MicroConditionEmbedding(nn.Module):
    """Source size, crop, stride and frame count, each through an MLP of its own."""

    def __init__(self, config: STIVConfig) -> None:
        super().__init__()
        frequency_width, hidden_size = config.frequency_width, config.hidden_size
        self.original_size = ScalarEmbedding(2, frequency_width, hidden_size)
        self.crop_top_left = ScalarEmbedding(2, frequency_width, hidden_size)
        self.sampling_stride = ScalarEmbedding(1, frequency_width, hidden_size)
        self.num_frames = ScalarEmbedding(1, frequency_width, hidden_size)

    def forward(self, micro: MicroConditions) -> list[Tensor]:
        return [
            self.original_size(micro.original_size_B2),
            self.crop_top_left(micro.crop_top_left_B2),
            self.sampling_stride(micro.sampling_stride_B[:, None]),
            self.num_frames(micro.num_frames_B[:, None]),
        ]


class AbsolutePositions(nn.Module):
    """Features of the place of each token, to be added to it: (T or 1, S, D).

    Rows and columns only where rotary positions do the rest; else time too. Sinusoidal ones are fixed, learned
    ones are tables of `MAX_LEARNED_POSITIONS` an axis, summed over the axes.
    """

    def __init__(self, config: STIVConfig) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        self.has_time = not config.rotary_positions
        self.tables: nn.ParameterDict | None = None
        if config.absolute_positions == "learned":
            axes = ("rows", "columns", "frames") if self.has_time else ("rows", "columns")
            shape = (MAX_LEARNED_POSITIONS, config.hidden_size)
            self.tables = nn.ParameterDict({axis: torch.empty(shape) for axis in axes})

    def forward(self, frames: int, rows: int, columns: int, device: torch.device) -> Tensor:
        """Raises:
        ValueError: an axis is longer than the learned table.
        """
        if self.tables is None:
            grid_1SD = grid_positions(rows, columns, self.hidden_size, device)[None]
            if not self.has_time:
                return grid_1SD
            frame_T = torch.arange(frames, dtype=torch.float32, device=device)
            return grid_1SD + sinusoidal(frame_T, self.hidden_size)[:, None]
        if max(frames if self.has_time else 1, rows, columns) > MAX_LEARNED_POSITIONS:
            raise ValueError(
                f"{frames} temporal positions, {rows} rows and {columns} columns of tokens; learned "
                f"positions end at {MAX_LEARNED_POSITIONS}: take rotary or sinusoidal ones"
            )
        grid_RCD = self.tables["rows"][:rows, None] + self.tables["columns"][:columns]
        grid_1SD = grid_RCD.flatten(0, 1)[None]
        return grid_1SD + self.tables["frames"][:frames, None] if self.has_time else grid_1SD
