"""One training step as plain functions: random draws, and a batch to its loss. No device mesh, no logging."""

from dataclasses import dataclass, fields, replace
from typing import Any

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
from modeling.config import STIVConfig
from modeling.diffusion import diffuse
from modeling.flow import (
    interpolate,
    prediction_loss,
    shift_timesteps,
    stratified_timesteps,
    velocity,
)
from modeling.masking import KeptPositions, draw_kept_positions, kept_latents
from training.config import StageConfig
from training.randomness import generator_at


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """One worker's slice of a global batch, before anything is dropped."""

    latents_BCFHW: Tensor
    conditions: Conditions

    def to(self, device: torch.device) -> "TrainBatch":
        return TrainBatch(self.latents_BCFHW.to(device), self.conditions.to(device))

    def part(self, samples: slice) -> "TrainBatch":
        """Some of the samples."""
        return _rows(self, samples)


@dataclass(frozen=True, slots=True)
class BatchSlice:
    """Which part of which global batch a worker has."""

    step: int
    batch_size: int
    places: range
    num_workers: int = 1
    """Among whom the batch is divided."""

    def parts(self, micro_batch_size: int | None) -> list[tuple[slice, float]]:
        """Samples to pass through the network at once, each with its weight in the gradient of this worker.

        Gradients are averaged over workers, so the weights are such that the average is that of the global batch,
        whatever share each has. All workers have the same number of parts, since they wait for each other in each: one
        that has a sample less than others may pass its last one again, with no weight.
        """
        num_samples = len(self.places)
        most = -(-self.batch_size // self.num_workers)
        at_once = min(micro_batch_size or most, most)
        parts = [
            (slice(start, stop), (stop - start) * self.num_workers / self.batch_size)
            for start in range(0, num_samples, at_once)
            for stop in [min(start + at_once, num_samples)]
        ]
        if len(parts) < -(-most // at_once):
            parts.append((slice(num_samples - 1, num_samples), 0.0))
        return parts


@dataclass(frozen=True, slots=True)
class StepDraws:
    """The random numbers of one worker's slice of a step."""

    t_B: Tensor
    noise_BCFHW: Tensor
    drop_text_B: Tensor
    drop_image_B: Tensor
    kept: KeptPositions | None
    """Positions that MaskDiT keeps; the same for the whole global batch."""

    def to(self, device: torch.device) -> "StepDraws":
        kept = None if self.kept is None else self.kept.to(device)
        return StepDraws(
            self.t_B.to(device),
            self.noise_BCFHW.to(device),
            self.drop_text_B.to(device),
            self.drop_image_B.to(device),
            kept,
        )

    def part(self, samples: slice) -> "StepDraws":
        """Those of some of the samples."""
        return replace(_rows(replace(self, kept=None), samples), kept=self.kept)


@dataclass(frozen=True, slots=True)
class StepLoss:
    """The mean loss of a slice, to be differentiated, and what telemetry wants to know."""

    loss: Tensor
    per_sample_B: Tensor
    t_B: Tensor
    task_B: Tensor
    """Which conditions each sample kept: 1 for its text, and 2 more for given frames."""


def _rows(value: Any, samples: slice) -> Any:
    """The samples of every tensor of a dataclass, however nested."""
    if value is None or isinstance(value, Tensor):
        return None if value is None else value[samples]
    changes = {field.name: _rows(getattr(value, field.name), samples) for field in fields(value)}
    return replace(value, **changes)


def draw_step(
    stage: StageConfig,
    key: tuple[int, str],
    slice_: BatchSlice,
    latent_shape: torch.Size,
    token_grid: tuple[int, int, int],
) -> StepDraws:
    """The draws for a slice of a global batch: a function of (seed, stage, step, place) alone.

    Noise is drawn per place; timesteps and dropout for the whole global batch, of which the slice is
    taken. `latent_shape` is (C, F, H, W), `token_grid` the temporal positions, rows and columns of tokens.
    """
    batch_size = slice_.batch_size
    mine = slice(slice_.places.start, slice_.places.stop)
    generator = generator_at(*key, "step", slice_.step)
    t_B = stratified_timesteps(batch_size, stage.timesteps, generator)
    t_B = shift_timesteps(t_B, stage.timestep_shift)
    drop_text_B = draw_dropout(batch_size, stage.text_dropout_prob, generator)
    drop_image_B = draw_dropout(batch_size, stage.image_dropout_prob, generator)
    kept = _draw_kept(stage, token_grid, generator)
    noise = [
        torch.randn(latent_shape, generator=generator_at(*key, "noise", slice_.step, place))
        for place in slice_.places
    ]
    return StepDraws(
        t_B=t_B[mine],
        noise_BCFHW=torch.stack(noise),
        drop_text_B=drop_text_B[mine],
        drop_image_B=drop_image_B[mine],
        kept=kept,
    )


def _draw_kept(
    stage: StageConfig, token_grid: tuple[int, int, int], generator: torch.Generator
) -> KeptPositions | None:
    if stage.mask_ratio == 0 and stage.temporal_mask_ratio == 0:
        return None
    num_temporal, rows, columns = token_grid
    spatial_S = draw_kept_positions(rows * columns, stage.mask_ratio, generator)
    temporal_T = None
    if stage.temporal_mask_ratio > 0:
        temporal_T = draw_kept_positions(num_temporal, stage.temporal_mask_ratio, generator)
    return KeptPositions(spatial_S, temporal_T)


def stage_loss(
    network: nn.Module,
    config: tuple[STIVConfig, StageConfig],
    batch: TrainBatch,
    draws: StepDraws,
    null_text: TextFeatures,
) -> StepLoss:
    """Loss of one slice after condition dropout: flow matching (STIV equations 1 and 2), or noise prediction.

    Given latent frames carry no loss (section 2.3.1), unless the stage asks for it. Under MaskDiT only the kept
    positions do, unless it asks for all: the network does not see the noise of the others.
    """
    model, stage = config
    contract = model.contract
    conditions = drop_text(batch.conditions, null_text, draws.drop_text_B)
    conditions = drop_image(conditions, draws.drop_image_B, contract.null_image)
    data, noise = batch.latents_BCFHW, draws.noise_BCFHW
    if contract.prediction == "velocity":
        x_t, target = interpolate(data, noise, draws.t_B), velocity(data, noise)
    else:
        x_t, target = diffuse(data, noise, draws.t_B), noise
    predicted = network(x_t, draws.t_B, conditions, kept=draws.kept)
    kept_FHW = None
    if draws.kept is not None and stage.masked_loss == "kept":
        frames, height, width = data.shape[-3:]
        kept_FHW = kept_latents(draws.kept, (frames, height, width), model)
    mask_BF = loss_mask(conditions.given_BF)
    if stage.loss_on_given_frames:
        mask_BF = torch.ones_like(mask_BF)
    loss, per_sample_B = prediction_loss(predicted, target, mask_BF, kept_FHW)
    has_image_B = batch.conditions.given_BF.any(1) & ~draws.drop_image_B
    task_B = (~draws.drop_text_B).long() + 2 * has_image_B.long()
    return StepLoss(loss, per_sample_B.detach(), draws.t_B, task_B)
