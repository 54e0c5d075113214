"""The path of Stable Diffusion with noise prediction: the baseline that flow matching is compared with (table 2).

x_t = alpha(t) data + sigma(t) noise, alpha^2 + sigma^2 = 1, on the "scaled linear" schedule of 1000 betas from 0.00085
to 0.012 (Stable Diffusion 1, the code of arXiv 2112.10752). Time runs as everywhere here, t=0 noise, t=1 data, and
alpha^2 is interpolated between the 1000 steps. At t=0 a little of the data is left, 7%: a known flaw of the schedule.
"""

import torch
from torch import Tensor

NUM_BETAS = 1000
FIRST_BETA, LAST_BETA = 0.00085, 0.012


def coefficients(t: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) at times of any shape."""
    betas = torch.linspace(FIRST_BETA**0.5, LAST_BETA**0.5, NUM_BETAS, dtype=torch.float64) ** 2
    log_kept = torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-betas).cumsum(0)])
    log_kept = log_kept.to(t.device)
    place = (1 - t.double()) * NUM_BETAS
    below = place.floor().clamp(0, NUM_BETAS - 1).long()
    share = place - below
    alpha_squared = torch.exp((1 - share) * log_kept[below] + share * log_kept[below + 1])
    return alpha_squared.sqrt().to(t.dtype), (1 - alpha_squared).sqrt().to(t.dtype)


def diffuse(data_BCFHW: Tensor, noise_BCFHW: Tensor, t_B: Tensor) -> Tensor:
    """The point of the path at t. The target of the network is the noise."""
    alpha_B, sigma_B = coefficients(t_B)
    shape = (-1, 1, 1, 1, 1)
    return alpha_B.view(shape) * data_BCFHW + sigma_B.view(shape) * noise_BCFHW


def denoise_step(x_t: Tensor, noise: Tensor, t: float, t_next: float) -> Tensor:
    """One step of DDIM (arXiv 2010.02502): along the data and the noise that are predicted at t."""
    times = torch.tensor([t, t_next], dtype=torch.float64)
    (alpha, alpha_next), (sigma, sigma_next) = (part.tolist() for part in coefficients(times))
    data = (x_t - sigma * noise) / alpha
    return alpha_next * data + sigma_next * noise
