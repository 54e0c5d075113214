"""Whether a stage can fit on the GPUs that it is started on: asked before anything is put there."""

import logging

from modeling.flops import token_grid
from training.config import TrainConfig
from training.errors import TrainError
from training.planning.needs import (
    Layout,
    MemoryBytes,
    largest_shape,
    memory,
    reserved_bytes,
    state_memory,
)
from training.streaming.buckets import batch_size_of

logger = logging.getLogger(__name__)

NUM_TEXT_TOKENS = 77
"""Of CLIP; other lengths change little."""


def check_fits(
    config: TrainConfig, stage_name: str, num_workers: int, memory_bytes: int
) -> MemoryBytes:
    """What the stage needs of each GPU, of which `memory_bytes` is all the memory.

    Not refused is what may just fit: libraries, encoders and gaps of the allocator are only warned about. Of compiled
    blocks and image attention only the state counts, for their activations are not known.

    Raises:
        TrainError: it cannot fit.
    """
    layout = layout_of(config, num_workers)
    if config.compile_blocks or config.model_of(stage_name).image_attention != "none":
        needed, at_once = state_memory(config, stage_name, layout), "the state alone"
    else:
        shape = largest_shape(config, stage_name, NUM_TEXT_TOKENS)
        clips = micro_batch_of(config, stage_name, num_workers)
        needed = memory(config, stage_name, layout, shape, clips)
        at_once = f"with {clips} clips at once"
    is_too_much = needed.total > memory_bytes
    if not is_too_much and needed.total <= memory_bytes - reserved_bytes(config):
        return needed
    advice = (
        f"stage {stage_name} needs {_gib(needed.total)} GiB of each GPU {at_once} (weights {_gib(needed.weights)}, "
        f"gradients {_gib(needed.gradients)}, optimizer {_gib(needed.optimizer)}, average {_gib(needed.average)}, "
        f"activations {_gib(needed.activations)}), which has {_gib(memory_bytes)}; `stiv plan` finds settings that fit: "
        f"stages.{stage_name}.micro_batch_size, sharding, recompute, average_on_cpu"
    )
    if is_too_much:
        raise TrainError(advice)
    logger.warning("%s", advice)
    return needed


def layout_of(config: TrainConfig, num_workers: int) -> Layout:
    """How a run lies on so many GPUs."""
    num_shards = {"none": 1, "full": num_workers, "hybrid": config.shard_group_size or 1}
    return Layout(
        num_workers,
        config.sharding,
        num_shards[config.sharding],
        config.recompute,
        config.average_on_cpu,
    )


def micro_batch_of(config: TrainConfig, stage_name: str, num_workers: int) -> int:
    """Clips of the largest shape that a worker passes through the network at once."""
    stage, model = config.stages[stage_name], config.model_of(stage_name)
    shape = largest_shape(config, stage_name, NUM_TEXT_TOKENS)
    num_tokens = token_grid(model, shape).num_represented
    share = -(-batch_size_of(stage, num_tokens) // num_workers)
    return min(stage.micro_batch_size or share, share)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f}"
