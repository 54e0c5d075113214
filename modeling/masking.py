"""MaskDiT: spatial positions that the main blocks do not see (STIV section 2.2).

The same positions are kept in all frames (a tube), because temporal attention runs along a position. Temporal
positions can be dropped in the same way, whole frames of tokens; STIV tried that and left it (table 6a).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from modeling.config import STIVConfig


def draw_kept_positions(
    num_positions: int, mask_ratio: float, generator: torch.Generator
) -> Tensor:
    """Indices of the kept positions of one axis, ascending, on the generator's device; at least one.

    Raises:
        ValueError: `mask_ratio` is not in [0, 1).
    """
    if not 0 <= mask_ratio < 1:
        raise ValueError(f"mask_ratio must be at least 0 and below 1, found {mask_ratio}")
    num_kept = max(1, round(num_positions * (1 - mask_ratio)))
    order = torch.randperm(num_positions, generator=generator, device=generator.device)
    return order[:num_kept].sort().values


@dataclass(frozen=True, slots=True)
class KeptPositions:
    """What the main blocks see."""

    spatial_S: Tensor
    """Indices of spatial positions, ascending."""
    temporal_T: Tensor | None = None
    """Indices of temporal positions, ascending; None for all."""

    def to(self, device: torch.device) -> "KeptPositions":
        temporal_T = None if self.temporal_T is None else self.temporal_T.to(device)
        return KeptPositions(self.spatial_S.to(device), temporal_T)

    def of(self, x_BTSD: Tensor) -> Tensor:
        """The kept tokens, a dense grid again."""
        if self.temporal_T is not None:
            x_BTSD = x_BTSD[:, self.temporal_T]
        return x_BTSD[:, :, self.spatial_S]


def unmask(kept_BTKD: Tensor, kept: KeptPositions, blank_TSD: Tensor) -> Tensor:
    """Put kept tokens back in their places and blank ones in the others: (B, T, S, D)."""
    batch = kept_BTKD.shape[0]
    blank_BTSD = blank_TSD.to(kept_BTKD.dtype).expand(batch, -1, -1, -1)
    if kept.temporal_T is None:
        return blank_BTSD.index_copy(2, kept.spatial_S, kept_BTKD)
    filled_BKSD = blank_BTSD[:, kept.temporal_T].index_copy(2, kept.spatial_S, kept_BTKD)
    return blank_BTSD.index_copy(1, kept.temporal_T, filled_BKSD)


def kept_latents(kept: KeptPositions, shape: tuple[int, int, int], config: STIVConfig) -> Tensor:
    """Bool (F, H, W), True at the latents of kept positions, for `shape` = (F, H, W); see `flow.masked_loss`."""
    frames, height, width = shape
    temporal_patch, spatial_patch = config.temporal_patch, config.spatial_patch
    num_temporal, device = -(-frames // temporal_patch), kept.spatial_S.device
    rows, columns = height // spatial_patch, width // spatial_patch
    spatial_S = torch.zeros(rows * columns, dtype=torch.bool, device=device)
    spatial_S[kept.spatial_S] = True
    temporal_T = torch.ones(num_temporal, dtype=torch.bool, device=device)
    if kept.temporal_T is not None:
        temporal_T.zero_()
        temporal_T[kept.temporal_T] = True
    space_HW = spatial_S.view(rows, columns).repeat_interleave(spatial_patch, 0)
    space_HW = space_HW.repeat_interleave(spatial_patch, 1)
    time_F = temporal_T.repeat_interleave(temporal_patch)[:frames]
    return time_F[:, None, None] & space_HW
