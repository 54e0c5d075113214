"""Noise to data by integrating the guided velocity from t=0 to t=1 (STIV sections 2.1 and 2.3).

The probability-flow ODE only. STIV integrates an SDE whose diffusion term it does not print.
"""

from collections.abc import Callable
from typing import assert_never

import torch
from torch import Tensor

from modeling.conditioning import (
    Conditions,
    TextFeatures,
    concatenate_conditions,
    loss_mask,
    null_conditions,
    replace_frames,
    with_null_text,
)
from modeling.config import GuidanceConfig, SamplerConfig
from modeling.flow import interpolate
from modeling.guidance import (
    guide_jointly,
    guide_separately,
    guide_text_only,
    renormalize_guidance,
)

VelocityModel = Callable[[Tensor, Tensor, Conditions], Tensor]
"""(x_t_BCFHW, t_B, conditions) -> velocity_BCFHW; `STIV` is one."""
StepCallback = Callable[[int, int], None]
"""Called after each step with (steps done, steps in all)."""


@torch.no_grad()
def sample(  # noqa: PLR0913  (one argument per thing the result depends on)
    model: VelocityModel,
    conditions: Conditions,
    null_text: TextFeatures,
    noise_BCFHW: Tensor,
    sampler: SamplerConfig,
    guidance: GuidanceConfig,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Latents of one clip per row of `conditions`. The noise is the only randomness.

    `null_text` is the encoded empty string, a batch of one. Given latent frames are put back after
    every step, so they come out bit for bit.
    """
    guided = _guided_velocity(model, conditions, null_text, noise_BCFHW, guidance)
    x_t = replace_frames(noise_BCFHW, conditions)
    total = sampler.num_sampling_steps
    for step in range(total):
        t, t_next = step / total, (step + 1) / total
        velocity = guided(x_t, t)
        match sampler.solver:
            case "euler":
                x_next = x_t + (t_next - t) * velocity
            case "heun":
                ahead = replace_frames(x_t + (t_next - t) * velocity, conditions)
                x_next = x_t + (t_next - t) * (velocity + guided(ahead, t_next)) / 2
            case _:
                assert_never(sampler.solver)
        x_t = replace_frames(x_next, conditions)
        if on_step is not None:
            on_step(step + 1, total)
    return x_t


def _guided_velocity(
    model: VelocityModel,
    conditions: Conditions,
    null_text: TextFeatures,
    noise_BCFHW: Tensor,
    guidance: GuidanceConfig,
) -> Callable[[Tensor, float], Tensor]:
    """The velocity at (x_t, t), with all passes of the scheme in one batch."""
    passes = _passes(conditions, null_text, guidance)
    batched = concatenate_conditions([part for part, _ in passes])
    mask_BF = loss_mask(conditions.given_BF)

    def velocity(x_t: Tensor, t: float) -> Tensor:
        t_B = torch.full((x_t.shape[0],), t, dtype=x_t.dtype, device=x_t.device)
        noised = _noise_given_frames(x_t, conditions, noise_BCFHW, t_B)
        inputs = torch.cat([x_t if knows_image else noised for _, knows_image in passes])
        predicted = model(inputs, t_B.repeat(len(passes)), batched).chunk(len(passes))
        guided = _combine(predicted, guidance)
        if guidance.renormalize and guidance.scheme != "none":
            return renormalize_guidance(guided, predicted[-1], mask_BF)
        return guided

    return velocity


def _passes(
    conditions: Conditions, null_text: TextFeatures, guidance: GuidanceConfig
) -> list[tuple[Conditions, bool]]:
    """The conditions of each pass, and whether it knows the given frames; the full one is last."""
    full = (conditions, True)
    null = (null_conditions(conditions, null_text), False)
    image_only = (with_null_text(conditions, null_text), True)
    match guidance.scheme:
        case "joint":
            return [null, full]
        case "text":
            return [image_only, full]
        case "separate":
            return [null, image_only, full]
        case "none":
            return [full]
        case _:
            assert_never(guidance.scheme)


def _combine(predicted: tuple[Tensor, ...], guidance: GuidanceConfig) -> Tensor:
    match guidance.scheme:
        case "joint":
            null, conditional = predicted
            return guide_jointly(null, conditional, guidance.text_scale)
        case "text":
            image_only, conditional = predicted
            return guide_text_only(image_only, conditional, guidance.text_scale)
        case "separate":
            null, image_only, conditional = predicted
            return guide_separately(
                null,
                image_only,
                conditional,
                image_scale=guidance.image_scale,
                text_scale=guidance.text_scale,
            )
        case "none":
            return predicted[0]
        case _:
            assert_never(guidance.scheme)


def _noise_given_frames(
    x_t: Tensor, conditions: Conditions, noise_BCFHW: Tensor, t_B: Tensor
) -> Tensor:
    """`x_t` as a pass without image must see it: the given frames noised to t.

    The network never met a clean frame it was not told of, and its own prediction there carries no
    loss, so the known latent is mixed with its part of the initial noise. The paper leaves this open.
    """
    on_path = interpolate(conditions.given_latents_BCFHW.to(x_t.dtype), noise_BCFHW, t_B)
    return torch.where(conditions.given_BF[:, None, :, None, None], on_path, x_t)
