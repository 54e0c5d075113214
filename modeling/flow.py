"""The training objective: flow matching on a straight path (STIV equations 1 and 2).

Time runs from noise at t=0 to data at t=1, and the network predicts the velocity, data - noise.
`modeling.diffusion` has the other path, that of the paper's baseline; both share time, loss and draws.
"""

import torch
from torch import Tensor

from modeling.settings import TimestepDistribution


def stratified_timesteps(
    batch: int, distribution: TimestepDistribution, generator: torch.Generator
) -> Tensor:
    """Times in (0, 1) whose quantiles are spread evenly over the batch, in random order.

    STIV does not name its distribution; `logit_normal` (mean 0, deviation 1) is that of DiT-Air, by
    the same group. Each time alone has the asked distribution; together they make the loss of a step less
    noisy than independent draws do, which is not in the paper either.
    """
    strata = torch.randperm(batch, generator=generator)
    quantiles = (strata + torch.rand(batch, generator=generator, dtype=torch.float64)) / batch
    if distribution == "uniform":
        return quantiles.float()
    # The ends of the normal distribution lie at infinity.
    return torch.sigmoid(torch.special.ndtri(quantiles.clamp(1e-6, 1 - 1e-6))).float()


def shift_timesteps(t: Tensor, shift: float) -> Tensor:
    """Times moved towards the noise by a factor on noise over signal; 1 leaves them as they are.

    The same noise hides less of a larger picture, whose pixels repeat each other more. SD3 (arXiv 2403.03206,
    equation 23) and DiT-Air shift the times of a higher resolution by `resolution_shift`, written here for
    noise at t=0: the ratio (1 - t) / t is multiplied by `shift`.
    """
    return t / (shift - (shift - 1) * t)


def resolution_shift(num_tokens: int, base_num_tokens: int) -> float:
    """The shift that keeps the signal-to-noise ratio of a whole picture: the root of how many more tokens it has."""
    return (num_tokens / base_num_tokens) ** 0.5


def interpolate(data_BCFHW: Tensor, noise_BCFHW: Tensor, t_B: Tensor) -> Tensor:
    """The point of the path at t, computed so that both ends are exact."""
    t = t_B.view(-1, 1, 1, 1, 1)
    return (1 - t) * noise_BCFHW + t * data_BCFHW


def velocity(data_BCFHW: Tensor, noise_BCFHW: Tensor) -> Tensor:
    """The derivative of the path with respect to t; it does not depend on t."""
    return data_BCFHW - noise_BCFHW


def score_of(velocity_BCFHW: Tensor, x_t_BCFHW: Tensor, t: float) -> Tensor:
    """Gradient of the log density at x_t, (t v - x_t) / (1 - t), from the velocity (STIV appendix A)."""
    return (t * velocity_BCFHW - x_t_BCFHW) / (1 - t)


def prediction_loss(
    predicted_BCFHW: Tensor,
    target_BCFHW: Tensor,
    loss_mask_BF: Tensor,
    kept_FHW: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean squared error over the latent frames that were not given: (mean of the batch, per sample).

    Each sample weighs the same whatever its number of given frames, so the mean over a batch does not
    depend on how the batch is split over devices. A sample with every frame given has zero loss.
    `kept_FHW` (bool) limits the loss to the positions the main blocks saw, as MaskDiT does.
    """
    error_BCFHW = (predicted_BCFHW.float() - target_BCFHW.float()).square()
    error_BFHW = error_BCFHW.mean(dim=1)
    if kept_FHW is None:
        error_BF, mask_BF = error_BFHW.mean((2, 3)), loss_mask_BF.to(error_BFHW.dtype)
    else:
        kept_F = kept_FHW.sum((1, 2)).to(error_BFHW.dtype)
        error_BF = (error_BFHW * kept_FHW).sum((2, 3)) / kept_F.clamp_min(1)
        mask_BF = loss_mask_BF.to(error_BFHW.dtype) * (kept_F > 0)
    per_sample_B = (error_BF * mask_BF).sum(1) / mask_BF.sum(1).clamp_min(1)
    return per_sample_B.mean(), per_sample_B
