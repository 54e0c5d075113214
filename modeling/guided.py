"""The passes of a guidance scheme, batched into one call of the network, and combined."""

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
    with_null_text,
)
from modeling.config import Contract, GuidanceConfig
from modeling.diffusion import diffuse
from modeling.flow import interpolate
from modeling.guidance import (
    guide_jointly,
    guide_separately,
    guide_text_only,
    renormalize_guidance,
)

Model = Callable[[Tensor, Tensor, Conditions], Tensor]
"""(x_t_BCFHW, t_B, conditions) -> prediction_BCFHW; `STIV` is one."""


def guided_prediction(
    model: Model,
    conditions: Conditions,
    null_text: TextFeatures,
    noise_BCFHW: Tensor,
    guidance: GuidanceConfig,
    contract: Contract,
) -> Callable[[Tensor, float], Tensor]:
    """The guided prediction at (x_t, t), with all passes of the scheme in one batch.

    Outside of `guidance.interval` it is the conditional prediction, by one pass.
    """
    passes = _passes(conditions, null_text, guidance, contract)
    batched = concatenate_conditions([part for part, _ in passes])
    mask_BF = loss_mask(conditions.given_BF)
    start, end = guidance.interval
    has_given = bool(conditions.given_BF.any())

    def predict(x_t: Tensor, t: float) -> Tensor:
        t_B = torch.full((x_t.shape[0],), t, dtype=x_t.dtype, device=x_t.device)
        noised = x_t
        if has_given:
            noised = _noise_given_frames(x_t, conditions, noise_BCFHW, t_B, contract)
        known = x_t if contract.frame_replacement else noised
        if not start <= t <= end or guidance.scheme == "none":
            return model(known, t_B, conditions)
        inputs = torch.cat([known if knows_image else noised for _, knows_image in passes])
        predicted = model(inputs, t_B.repeat(len(passes)), batched).chunk(len(passes))
        guided = _combine(predicted, guidance)
        if guidance.renormalize:
            return renormalize_guidance(guided, predicted[-1], mask_BF)
        return guided

    return predict


def _passes(
    conditions: Conditions, null_text: TextFeatures, guidance: GuidanceConfig, contract: Contract
) -> list[tuple[Conditions, bool]]:
    """The conditions of each pass, and whether it sees what is given; the full one is last."""
    full = (conditions, True)
    null = (
        null_conditions(conditions, null_text, contract.null_image),
        contract.null_image == "zeros",
    )
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
    x_t: Tensor, conditions: Conditions, noise_BCFHW: Tensor, t_B: Tensor, contract: Contract
) -> Tensor:
    """`x_t` as a pass without image must see it: the given frames noised to t.

    The network never met a clean frame it was not told of, and its own prediction there carries no
    loss, so the known latent is mixed with its part of the initial noise. The paper leaves this open.
    """
    mix = interpolate if contract.prediction == "velocity" else diffuse
    on_path = mix(conditions.given_latents_BCFHW.to(x_t.dtype), noise_BCFHW, t_B)
    return torch.where(conditions.given_BF[:, None, :, None, None], on_path, x_t)
