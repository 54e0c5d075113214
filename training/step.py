"""One training step as plain functions: random draws, and a batch to its loss. No device mesh, no logging."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modeling.conditioning import (
    Conditions,
    TextFeatures,
    draw_dropout,
    drop_image,
    drop_text,
    loss_mask,
)
from modeling.flow import TimestepDistribution, interpolate, velocity, velocity_loss
from modeling.masking import draw_kept_positions, kept_latents
from training.config import StageConfig
from training.randomness import generator_at


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """One worker's slice of a global batch, before anything is dropped."""

    latents_BCFHW: Tensor
    conditions: Conditions

    def to(self, device: torch.device) -> "TrainBatch":
        return TrainBatch(self.latents_BCFHW.to(device), self.conditions.to(device))


@dataclass(frozen=True, slots=True)
class StepDraws:
    """The random numbers of one worker's slice of a step."""

    t_B: Tensor
    noise_BCFHW: Tensor
    drop_text_B: Tensor
    drop_image_B: Tensor
    keep_S: Tensor | None
    """Spatial positions that MaskDiT keeps; the same for the whole global batch."""

    def to(self, device: torch.device) -> "StepDraws":
        keep_S = None if self.keep_S is None else self.keep_S.to(device)
        return StepDraws(
            self.t_B.to(device),
            self.noise_BCFHW.to(device),
            self.drop_text_B.to(device),
            self.drop_image_B.to(device),
            keep_S,
        )


@dataclass(frozen=True, slots=True)
class StepLoss:
    """The mean loss of a slice, to be differentiated, and what telemetry wants to know."""

    loss: Tensor
    per_sample_B: Tensor
    t_B: Tensor


def draw_step(
    stage: StageConfig,
    key: tuple[int, str],
    positions: range,
    latent_shape: torch.Size,
    num_spatial_tokens: int,
) -> StepDraws:
    """The draws for some positions of a stage: a function of (seed, stage, position) alone.

    Noise is drawn per position; timesteps and dropout for the whole global batch, of which the slice
    is taken. `positions` lie within one global batch. `latent_shape` is (C, F, H, W).
    """
    batch_size = stage.batch_size
    step, start = divmod(positions.start, batch_size)
    mine = slice(start, start + len(positions))
    generator = generator_at(*key, "step", step)
    t_B = stratified_timesteps(batch_size, stage.timesteps, generator)
    drop_text_B = draw_dropout(batch_size, stage.text_dropout_prob, generator)
    drop_image_B = draw_dropout(batch_size, stage.image_dropout_prob, generator)
    keep_S = None
    if stage.mask_ratio > 0:
        keep_S = draw_kept_positions(num_spatial_tokens, stage.mask_ratio, generator)
    noise = [
        torch.randn(latent_shape, generator=generator_at(*key, "noise", position))
        for position in positions
    ]
    return StepDraws(
        t_B=t_B[mine],
        noise_BCFHW=torch.stack(noise),
        drop_text_B=drop_text_B[mine],
        drop_image_B=drop_image_B[mine],
        keep_S=keep_S,
    )


def stratified_timesteps(
    batch: int, distribution: TimestepDistribution, generator: torch.Generator
) -> Tensor:
    """Timesteps whose quantiles are spread evenly over the batch, in random order.

    Each alone has the asked distribution; together they make the loss of a step less noisy than
    independent draws do. Not stated in STIV; `modeling.flow.sample_timesteps` is the plain draw.
    """
    strata = torch.randperm(batch, generator=generator)
    quantiles = (strata + torch.rand(batch, generator=generator, dtype=torch.float64)) / batch
    if distribution == "uniform":
        return quantiles.float()
    # The ends of the normal distribution lie at infinity.
    return torch.sigmoid(torch.special.ndtri(quantiles.clamp(1e-6, 1 - 1e-6))).float()


def stage_loss(
    model: nn.Module,
    spatial_patch: int,
    batch: TrainBatch,
    draws: StepDraws,
    null_text: TextFeatures,
) -> StepLoss:
    """Flow-matching loss of one slice (STIV equations 1 and 2) after condition dropout.

    Given latent frames carry no loss (section 2.3.1). Under MaskDiT only the kept positions do: the
    network does not see the noise of the others.
    """
    conditions = drop_text(batch.conditions, null_text, draws.drop_text_B)
    conditions = drop_image(conditions, draws.drop_image_B)
    data, noise = batch.latents_BCFHW, draws.noise_BCFHW
    x_t = interpolate(data, noise, draws.t_B)
    predicted = model(x_t, draws.t_B, conditions, keep_S=draws.keep_S)
    kept_HW = None
    if draws.keep_S is not None:
        height, width = data.shape[-2:]
        kept_HW = kept_latents(draws.keep_S, height, width, spatial_patch)
    loss, per_sample_B = velocity_loss(
        predicted, velocity(data, noise), loss_mask(conditions.given_BF), kept_HW
    )
    return StepLoss(loss, per_sample_B.detach(), draws.t_B)
