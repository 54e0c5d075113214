"""One step of the ODE or the SDE that runs from noise to data, by Euler or by Heun.

STIV integrates an SDE and names neither its diffusion coefficient nor its solver (section 2.1); DiT-Air, by the same
group, takes a second-order Heun SDE solver with 50 steps. This is the SDE of SiT (arXiv 2401.08740),
    dx = [v + w(t) s / 2] dt + sqrt(w(t)) dW,
whose samples have the same distribution as those of the ODE for any w. With w(t) = c (1 - t) the correction
w s / 2 = c (t v - x) / 2 stays finite at t = 1, where the score s = (t v - x) / (1 - t) does not.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from modeling.config import SamplerConfig

Derivative = Callable[[Tensor, float], Tensor]
"""(x_t, t) -> the guided velocity."""


def solver_step(
    sampler: SamplerConfig,
    velocity: Derivative,
    x_t: Tensor,
    times: tuple[float, float],
    generator: torch.Generator | None,
) -> Tensor:
    """x at the second time from x at the first.

    The last step of the SDE is one of the ODE, so that no fresh noise is left in the sample.
    """
    t, t_next = times
    drift = velocity
    if sampler.process == "sde" and t_next < 1:
        assert generator is not None, "the sampler checks this"
        strength = sampler.diffusion_scale
        fresh = torch.randn(x_t.shape, generator=generator, device=x_t.device, dtype=x_t.dtype)
        x_t = x_t + (strength * (1 - t) * (t_next - t)) ** 0.5 * fresh
        drift = _corrected(velocity, strength)
    first = drift(x_t, t)
    ahead = x_t + (t_next - t) * first
    if sampler.solver == "euler":
        return ahead
    return x_t + (t_next - t) * (first + drift(ahead, t_next)) / 2


def _corrected(velocity: Derivative, strength: float) -> Derivative:
    def drift(x: Tensor, t: float) -> Tensor:
        v = velocity(x, t)
        return v + strength * (t * v - x) / 2

    return drift
