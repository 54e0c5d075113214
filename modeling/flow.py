"""The training objective: flow matching on a straight path (STIV equations 1 and 2).

Time runs from noise at t=0 to data at t=1, and the network predicts the velocity, data - noise.
"""

from typing import Literal, assert_never

import torch
from torch import Tensor

TimestepDistribution = Literal["logit_normal", "uniform"]


def sample_timesteps(
    batch: int,
    distribution: TimestepDistribution,
    generator: torch.Generator,
    device: torch.device | str,
) -> Tensor:
    """Draw t in (0, 1) for each sample.

    STIV does not name its distribution; `logit_normal` (mean 0, deviation 1) is that of DiT-Air, by
    the same group. The draw is made on the generator's device, then moved.
    """
    match distribution:
        case "logit_normal":
            t_B = torch.sigmoid(torch.randn(batch, generator=generator, device=generator.device))
        case "uniform":
            t_B = torch.rand(batch, generator=generator, device=generator.device)
        case _:
            assert_never(distribution)
    return t_B.to(device)


def interpolate(data_BCFHW: Tensor, noise_BCFHW: Tensor, t_B: Tensor) -> Tensor:
    """The point of the path at t, computed so that both ends are exact."""
    t = t_B.view(-1, 1, 1, 1, 1)
    return (1 - t) * noise_BCFHW + t * data_BCFHW


def velocity(data_BCFHW: Tensor, noise_BCFHW: Tensor) -> Tensor:
    """The derivative of the path with respect to t; it does not depend on t."""
    return data_BCFHW - noise_BCFHW


def velocity_loss(
    predicted_BCFHW: Tensor,
    velocity_BCFHW: Tensor,
    loss_mask_BF: Tensor,
    kept_HW: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean squared error over the latent frames that were not given: (mean of the batch, per sample).

    Each sample weighs the same whatever its number of given frames, so the mean over a batch does not
    depend on how the batch is split over devices. A sample with every frame given has zero loss.
    `kept_HW` (bool) limits the loss to the positions the main blocks saw, as MaskDiT does.
    """
    error_BCFHW = (predicted_BCFHW.float() - velocity_BCFHW.float()).square()
    error_BFHW = error_BCFHW.mean(dim=1)
    error_BF = error_BFHW.mean((2, 3)) if kept_HW is None else error_BFHW[:, :, kept_HW].mean(2)
    mask_BF = loss_mask_BF.to(error_BF.dtype)
    per_sample_B = (error_BF * mask_BF).sum(1) / mask_BF.sum(1).clamp_min(1)
    return per_sample_B.mean(), per_sample_B
