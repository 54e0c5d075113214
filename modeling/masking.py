"""MaskDiT: spatial positions that the main blocks do not see (STIV section 2.2).

The same positions are kept in all frames (a tube), because temporal attention runs along a position.
"""

import torch
from torch import Tensor


def draw_kept_positions(
    num_positions: int, mask_ratio: float, generator: torch.Generator
) -> Tensor:
    """Indices of the kept spatial positions, ascending, on the generator's device; at least one.

    Raises:
        ValueError: `mask_ratio` is not in [0, 1).
    """
    if not 0 <= mask_ratio < 1:
        raise ValueError(f"mask_ratio must be at least 0 and below 1, found {mask_ratio}")
    num_kept = max(1, round(num_positions * (1 - mask_ratio)))
    order = torch.randperm(num_positions, generator=generator, device=generator.device)
    return order[:num_kept].sort().values


def unmask(kept_BTKD: Tensor, keep_S: Tensor, blank_SD: Tensor) -> Tensor:
    """Put kept tokens back in their places and blank ones in the others: (B, T, S, D)."""
    batch, num_temporal = kept_BTKD.shape[:2]
    blank_BTSD = blank_SD.to(kept_BTKD.dtype).expand(batch, num_temporal, -1, -1)
    return blank_BTSD.index_copy(2, keep_S, kept_BTKD)


def kept_latents(keep_S: Tensor, height: int, width: int, spatial_patch: int) -> Tensor:
    """Bool (height, width), True at the latent pixels of kept positions; see `flow.velocity_loss`."""
    rows, columns = height // spatial_patch, width // spatial_patch
    kept_S = torch.zeros(rows * columns, dtype=torch.bool, device=keep_S.device)
    kept_S[keep_S] = True
    kept_RC = kept_S.view(rows, columns)
    return kept_RC.repeat_interleave(spatial_patch, 0).repeat_interleave(spatial_patch, 1)
