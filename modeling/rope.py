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


def temporal_rotary(
    num_positions: int, head_width: int, device: torch.device, trained: int | None = None
) -> Rotary:
    """Angles of the temporal positions. More than `trained` are interpolated into the range of that many."""
    return rotary(_angles(axis_positions(num_positions, trained, device), head_width // 2))


def spatial_rotary(
    rows: int,
    columns: int,
    head_width: int,
    device: torch.device,
    trained: tuple[int, int] | None = None,
) -> Rotary:
    """Angles of a grid in row-major order: rows turn the first half, columns the second.

    An axis longer than in `trained` (rows, columns) is interpolated into its range.
    """
    trained_rows, trained_columns = (None, None) if trained is None else trained
    row_L = axis_positions(rows, trained_rows, device).repeat_interleave(columns)
    column_L = axis_positions(columns, trained_columns, device).repeat(rows)
    quarter = head_width // 4
    return rotary(torch.cat([_angles(row_L, quarter), _angles(column_L, quarter)], dim=1))


def rotary(angles_LK: Tensor) -> Rotary:
    return Rotary(angles_LK.cos(), angles_LK.sin())


def axis_positions(length: int, trained: int | None, device: torch.device) -> Tensor:
    """0, 1, 2 ... along an axis, or closer together where there are more than `trained` of them.

    STIV interpolates when it adds frames or pixels (section 2.4); scaled by old over new length, the usual rule.
    """
    scale = 1.0 if trained is None or length <= trained else trained / length
    return scale * torch.arange(length, dtype=torch.float32, device=device)


def rotate(x_BNLD: Tensor, positions: Rotary | None) -> Tensor:
    """Turn channel pairs (i, i + D/2) of queries or keys by the angle of their position, if they have one."""
    if positions is None:
        return x_BNLD
    first, second = x_BNLD.chunk(2, dim=-1)
    cos, sin = positions.cos_LK, positions.sin_LK
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(x_BNLD.dtype)


def _angles(positions_L: Tensor, num_frequencies: int) -> Tensor:
    exponents_K = torch.arange(num_frequencies, dtype=torch.float32, device=positions_L.device)
    frequencies_K = BASE ** (-exponents_K / num_frequencies)
    return positions_L[:, None] * frequencies_K[None, :]
