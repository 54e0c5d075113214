"""What a worker reads a stage with: plan, order, loader and encoders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modeling.conditioning import TextFeatures
from training.config import TrainConfig
from training.distribute import Worker
from training.encoders import BatchEncoder, load_encoders
from training.run_directory import RunDirectory
from training.streaming.buckets import StagePlan, plan_stage
from training.streaming.index import SampleIndex
from training.streaming.loader import BatchLoader
from training.streaming.order import SampleOrder
from training.streaming.reading import SampleReader


@dataclass(frozen=True)
class StageData:
    """What one worker reads a stage with."""

    plan: StagePlan
    order: SampleOrder
    loader: BatchLoader
    encoder: BatchEncoder
    null_text: TextFeatures


def plan_of(index: SampleIndex, config: TrainConfig, stage_name: str) -> StagePlan:
    """Which clips a stage trains on, in which shapes.

    Raises:
        DataError: none of the clips can be used.
    """
    model = config.model_of(stage_name)
    patches = (model.temporal_patch, model.spatial_patch)
    stage, data = config.stages[stage_name], config.data_of(stage_name)
    return plan_stage(index, stage, data, patches, config.all_sizes())


def open_data(
    config: TrainConfig,
    stage_name: str,
    datasets: Sequence[str | Path],
    run: RunDirectory,
    worker: Worker,
) -> StageData:
    """For one worker of a run that was prepared."""
    index = SampleIndex.open(datasets, run.index)
    plan = plan_of(index, config, stage_name)
    key = (config.seed, stage_name)
    data = config.data_of(stage_name)
    order = SampleOrder(index, plan, key, config.stages[stage_name], data)
    encoders = load_encoders(config, run.autoencoder, worker.device)
    return StageData(
        plan=plan,
        order=order,
        loader=BatchLoader(
            order,
            SampleReader(index, data, run.frames),
            data,
            rank=worker.rank,
            world_size=worker.world_size,
        ),
        encoder=BatchEncoder(encoders, worker.device),
        null_text=encoders.null_text.to(worker.device),
    )
