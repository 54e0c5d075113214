"""The loss on clips that are never trained on, with noise and times that are the same each time."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.distributed.fsdp import FSDPModule

from modeling.conditioning import TextFeatures
from training.config import StageConfig, TrainConfig
from training.distribute import Worker
from training.due import is_due
from training.encoders import BatchEncoder
from training.errors import DataError
from training.run_directory import RunDirectory
from training.state import TrainState
from training.step import BatchSlice, StepDraws, TrainBatch, draw_step, stage_loss
from training.streaming.buckets import StagePlan, plan_stage
from training.streaming.index import SampleIndex
from training.streaming.loader import BatchLoader, LoadedBatch
from training.streaming.order import SampleOrder
from training.streaming.reading import SampleReader
from training.telemetry import bin_losses, mean_losses


def plan_validation(index: SampleIndex, config: TrainConfig, stage_name: str) -> StagePlan:
    """The held-out clips of a stage that has a `validation`.

    Raises:
        DataError: too few are held out for one batch.
    """
    model, stage = config.model_of(stage_name), _as_validated(config.stages[stage_name])
    patches = (model.temporal_patch, model.spatial_patch)
    try:
        data = config.data_of(stage_name)
        return plan_stage(index, stage, data, patches, config.all_sizes(), held_out=True)
    except DataError as error:
        raise DataError(
            f"validation of stage {stage_name}: {error}; or raise validation.share"
        ) from error


def held_out_batches(
    index: SampleIndex,
    config: TrainConfig,
    stage_name: str,
    run: RunDirectory,
    share: tuple[int, int],
) -> Iterator[LoadedBatch]:
    """The batches of a stage that has a `validation`; `share` is which worker of how many reads its slices of them."""
    data, stage = config.data_of(stage_name), _as_validated(config.stages[stage_name])
    assert stage.validation is not None, "the caller asks"
    plan = plan_validation(index, config, stage_name)
    order = SampleOrder(index, plan, _key(config, stage_name), stage, data)
    reader = SampleReader(index, data, run.frames)
    in_turn = data.model_copy(update={"loader_workers": 0})
    rank, world_size = share
    loader = BatchLoader(order, reader, in_turn, rank=rank, world_size=world_size)
    return loader.batches(0, stage.validation.num_batches)


class Validation:
    """The held-out batches of one worker; read and encoded once, then kept in host memory."""

    def __init__(
        self,
        config: TrainConfig,
        stage_name: str,
        datasets: Sequence[str | Path],
        run: RunDirectory,
        worker: Worker,
    ) -> None:
        settings = config.stages[stage_name].validation
        assert settings is not None, "the caller asks"
        self._every_steps = settings.every_steps
        self._precision = config.precision
        self._of_stage = config.model_of(stage_name), _as_validated(config.stages[stage_name])
        self._key = _key(config, stage_name)
        self._worker = worker
        index = SampleIndex.open(datasets, run.index)
        share = (worker.rank, worker.world_size)
        self._loaded = held_out_batches(index, config, stage_name, run, share)
        self._batches: list[tuple[TrainBatch, StepDraws]] = []

    def is_due(self, last: int, steps_done: int) -> bool:
        """Every so many steps, and after the last; `last` is the step of the validation before."""
        is_end = steps_done == self._of_stage[1].num_steps
        return is_end or is_due(self._every_steps, last, steps_done)

    @torch.no_grad()
    def losses(
        self, state: TrainState, encoder: BatchEncoder, null_text: TextFeatures
    ) -> dict[str, Any]:
        """Of the averaged weights: `loss`, `by_timestep` and `by_task`. All workers call this together."""
        for loaded in self._loaded:
            batch = encoder.encode(loaded)
            slice_ = BatchSlice(loaded.step, loaded.batch_size, loaded.places)
            # No position is masked, so the grid of tokens does not matter.
            draws = draw_step(
                self._of_stage[1], self._key, slice_, batch.latents_BCFHW.shape[1:], (1, 1, 1)
            )
            self._batches.append((batch.to(torch.device("cpu")), draws))
        device = self._worker.device
        sums = 0
        with state.average.in_place():
            for batch, draws in self._batches:
                with torch.autocast(
                    device.type, torch.bfloat16, enabled=self._precision == "bfloat16"
                ):
                    result = stage_loss(
                        state.model, self._of_stage, batch.to(device), draws.to(device), null_text
                    )
                sums = sums + bin_losses(result.per_sample_B, result.t_B, result.task_B)
            _let_go(state.model)
        assert isinstance(sums, torch.Tensor), "there is a batch or more"
        if self._worker.world_size > 1:
            torch.distributed.all_reduce(sums)
        found = asdict(mean_losses(sums))
        return {**found, "by_timestep": list(found["by_timestep"])}


def _key(config: TrainConfig, stage_name: str) -> tuple[int, str]:
    return config.seed, f"{stage_name}/validation"


def _as_validated(stage: StageConfig) -> StageConfig:
    """The stage with all conditions kept, nothing masked, and the batches of its validation."""
    assert stage.validation is not None, "the caller asks"
    return stage.model_copy(
        update={
            "batch_size": stage.validation.batch_size,
            "tokens_per_batch": None,
            "text_dropout_prob": 0.0,
            "image_dropout_prob": 0.0,
            "mask_ratio": 0.0,
            "temporal_mask_ratio": 0.0,
        }
    )


def _let_go(model: nn.Module) -> None:
    """Drop gathered parameters: FSDP2 keeps those of the root after a forward pass, and they are the average's."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
