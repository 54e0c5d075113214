"""Rotary positions: one axis over frames, two over rows and columns (STIV section 2.1).

STIV prints neither base nor split. We take base 10000 and give each axis of space half of the angles.
"""

from typing import NamedTuple

import torch
from torch import Tensor

BASE = 10_000.0


class Rotary(NamedTuple):
    """Cosines and sines of L positions; K is half the width of a head."""

    cos_LK: Tensor
    sin_LK: Tensor

    def at(self, positions: Tensor) -> "Rotary":
        """The same, for the given indices only."""
        return Rotary(self.cos_LK[positions], self.sin_LK[positions])


def temporal_rotary(num_positions: int, head_width: int, device: torch.device) -> Rotary:
    positions_L = torch.arange(num_positions, dtype=torch.float32, device=device)
    return rotary(_angles(positions_L, head_width // 2))


def spatial_rotary(rows: int, columns: int, head_width: int, device: torch.device) -> Rotary:
    """Angles of a grid in row-major order: rows turn the first half, columns the second."""
    row_L = torch.arange(rows, dtype=torch.float32, device=device).repeat_interleave(columns)
    column_L = torch.arange(columns, dtype=torch.float32, device=device).repeat(rows)
    quarter = head_width // 4
    return rotary(torch.cat([_angles(row_L, quarter), _angles(column_L, quarter)], dim=1))


def rotary(angles_LK: Tensor) -> Rotary:
    return Rotary(angles_LK.cos(), angles_LK.sin())


def rotate(x_BNLD: Tensor, positions: Rotary) -> Tensor:
    """Turn channel pairs (i, i + D/2) of queries or keys by the angle of their position."""
    first, second = x_BNLD.chunk(2, dim=-1)
    cos, sin = positions.cos_LK, positions.sin_LK
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(x_BNLD.dtype)


def _angles(positions_L: Tensor, num_frequencies: int) -> Tensor:
    exponents_K = torch.arange(num_frequencies, dtype=torch.float32, device=positions_L.device)
    frequencies_K = BASE ** (-exponents_K / num_frequencies)
    return positions_L[:, None] * frequencies_K[None, :]
