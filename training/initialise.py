"""Where the weights of a stage come from: the stages before it (STIV section 2.4)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from modeling.inflate import load_stage
from modeling.stiv import STIV
from training.checkpoint import open_average
from training.config import TrainConfig
from training.errors import TrainError
from training.randomness import derive_seed
from training.run_directory import RunDirectory
from training.shards import fill_part


def initialise(model: STIV, config: TrainConfig, stage_name: str, run: RunDirectory) -> None:
    """Fill `model` with fresh weights, and then with the averaged ones of the stages that it starts from.

    Tensor by tensor in host memory, of which a sharded model takes its parts: the same numbers on any device and for
    any division.

    Raises:
        TrainError: one of these is not finished.
        CheckpointError: a checkpoint of theirs cannot be read.
        WeightFlowError: their weights do not fit.
    """
    seed = derive_seed(config.seed, stage_name, "weights")
    for parameter, value in model.initial_weights(torch.Generator().manual_seed(seed)):
        fill_part(parameter, value)
    starts = config.starts_of(stage_name)
    if not starts:
        return
    weights, *temporal = [_average_of(name, stage_name, run) for name in starts]
    was_image = config.stages[starts[0]].task == "t2i"
    is_image = config.stages[stage_name].task == "t2i"
    load_stage(
        model,
        weights,
        kind="t2i_to_t2v" if was_image and not is_image else "same",
        temporal_from=temporal[0] if temporal else None,
        fill=fill_part,
    )


def _average_of(name: str, stage_name: str, run: RunDirectory) -> Mapping[str, Tensor]:
    result = run.stage(name).result()
    if result is None:
        raise TrainError(
            f"stage {stage_name} starts from stage {name}, which is not finished in {run.path}; "
            f"train {name} first"
        )
    return open_average(run.path / result.checkpoint)
