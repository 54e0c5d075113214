"""What a stage needs of each GPU: memory of every kind, tokens, operations and time."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

from modeling.config import STIVConfig
from modeling.flops import ClipShape, forward_flops, token_grid
from modeling.settings import LATENT_DOWNSAMPLING, RecomputePolicy, given_positions
from modeling.stiv import STIV
from training.adafactor import AdaFactor
from training.config import OptimizerConfig, StageConfig, TrainConfig
from training.planning.memory import PassCase, estimated_pass_bytes, pass_bytes
from training.streaming.buckets import Bucket, batch_size_of

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Layout:
    """How a run lies on its GPUs."""

    num_gpus: int
    sharding: Literal["none", "hybrid", "full"]
    num_shards: int
    """GPUs over which weights, optimizer state and average are divided; 1 where each has all of them."""
    recompute: RecomputePolicy
    device: Literal["cpu", "cuda"] = "cuda"
    """On the CPU too, where a plan can be held against what is used."""


@dataclass(frozen=True, slots=True)
class MemoryBytes:
    """Of one GPU, at the moment of a step when most is in use."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    """What a pass over a micro-batch keeps and computes with, and what is gathered and sent meanwhile; less the
    gradients that are not there yet at that moment."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.average + self.activations


@dataclass(frozen=True, slots=True)
class StageWork:
    """What a stage computes, whatever it runs on. Of its global batch where shapes differ, the mean over them."""

    num_parameters: int
    tokens_per_sample: float
    tokens_processed_per_sample: float
    batch_size: float
    flops_per_step: float
    """Forward and backward, by `modeling.flops`; what is computed again does not count."""
    num_steps: int

    def days(self, num_gpus: int, peak_tflops: float, mfu: float) -> float:
        """At this share of the peak, of all GPUs together."""
        seconds = self.num_steps * self.flops_per_step / (num_gpus * peak_tflops * 1e12 * mfu)
        return seconds / 86_400


def stage_work(config: TrainConfig, stage_name: str, num_text_tokens: int) -> StageWork:
    """Shapes of a video stage count evenly, for which ones its clips have is not known here; images by their share."""
    stage, model = config.stages[stage_name], config.model_of(stage_name)
    tokens = processed = batch = flops = 0.0
    for bucket, share in _buckets(config, stage_name):
        shape = clip_shape(stage, bucket, num_text_tokens)
        grid = token_grid(model, shape, stage.mask_ratio, stage.temporal_mask_ratio)
        size = batch_size_of(stage, grid.num_represented)
        tokens += share * grid.num_represented
        processed += share * grid.num_processed
        batch += share * size
        flops += share * size * forward_flops(model, shape, grid).train
    sizes = _parameter_sizes(model)
    return StageWork(sum(sizes), tokens, processed, batch, flops, stage.num_steps)


def largest_shape(config: TrainConfig, stage_name: str, num_text_tokens: int) -> ClipShape:
    """Of all that the stage trains at, the one with most tokens: it needs the most memory."""
    model = config.model_of(stage_name)
    patches = (model.temporal_patch, model.spatial_patch)
    buckets = [bucket for bucket, _ in _buckets(config, stage_name)]
    largest = max(buckets, key=lambda bucket: bucket.num_tokens(*patches))
    return clip_shape(config.stages[stage_name], largest, num_text_tokens)


def clip_shape(stage: StageConfig, bucket: Bucket, num_text_tokens: int) -> ClipShape:
    given = 0
    if stage.task == "stiv" and bucket.num_frames > 1:
        given = max(len(given_positions(which, bucket.num_frames)) for which in stage.given)
    return ClipShape(
        num_latent_frames=bucket.num_frames,
        height=bucket.height_px // LATENT_DOWNSAMPLING,
        width=bucket.width_px // LATENT_DOWNSAMPLING,
        num_text_tokens=num_text_tokens,
        num_given_frames=given,
    )


def memory(
    config: TrainConfig, stage_name: str, layout: Layout, shape: ClipShape, micro_batch: int
) -> MemoryBytes:
    """For micro-batches of this many clips of this shape."""
    return _memory(config, stage_name, layout, shape, micro_batch, is_exact=True)


def estimated_memory(
    config: TrainConfig, stage_name: str, layout: Layout, shape: ClipShape, micro_batch: int
) -> MemoryBytes:
    """The same within a few percent, and at once for every further micro-batch."""
    return _memory(config, stage_name, layout, shape, micro_batch, is_exact=False)


def _memory(
    config: TrainConfig,
    stage_name: str,
    layout: Layout,
    shape: ClipShape,
    micro_batch: int,
    *,
    is_exact: bool,
) -> MemoryBytes:
    stage, model = config.stages[stage_name], config.model_of(stage_name)
    share = batch_size_of(stage, _num_tokens(model, shape)) // layout.num_gpus
    accumulates, is_sharded = micro_batch < share, layout.num_shards > 1
    is_half = config.precision == "bfloat16"
    case = PassCase(
        model=model,
        stage=_of_pass(stage),
        clip=shape,
        micro_batch=micro_batch,
        recompute=layout.recompute,
        device=layout.device,
        half=is_half,
        half_weights=is_half and is_sharded,
        keeps_gradients=layout.num_gpus == 1 and not accumulates,
    )
    passed = pass_bytes(case) if is_exact else estimated_pass_bytes(case)
    sizes, shards = _parameter_sizes(model), layout.num_shards
    weights = FLOAT32_BYTES * sum(sizes) // shards
    optimizer, update = optimizer_bytes(model, stage.optimizer, shards)
    gathered, sent = _message_bytes(model, is_half=is_half) if is_sharded else (0, 0)
    # Copies have a place for gradients from the start, and a second micro-batch finds those of the first.
    early = weights if accumulates or (layout.num_gpus > 1 and not is_sharded) else 0
    late = 0 if case.keeps_gradients else weights
    most = max(
        early + max(passed.before, passed.last_block) + gathered + sent,
        late + passed.rest + gathered + sent,
        weights + update,
    )
    return MemoryBytes(
        weights=weights,
        gradients=weights,
        optimizer=optimizer,
        average=0 if config.average_on_cpu else weights,
        activations=most - weights,
    )


def optimizer_bytes(
    model: STIVConfig, settings: OptimizerConfig, num_shards: int
) -> tuple[int, int]:
    """State of the optimizer on each GPU, and what its step holds for a moment."""
    sizes = _parameter_sizes(model)
    if settings.name == "adamw":
        # Two moments; torch takes the root of the second one for all parameters at once.
        state, moment = 2 * sum(sizes), sum(sizes)
    else:
        # It has the shards in its count already.
        state, moment = num_shards * _adafactor_numbers(model, num_shards), 2 * max(sizes)
    return FLOAT32_BYTES * state // num_shards, FLOAT32_BYTES * moment // num_shards


def _adafactor_numbers(model: STIVConfig, num_shards: int) -> int:
    """Numbers in the state, of which the column means of a matrix are not divided."""
    divided = whole = 0
    for parameter in _meta(model).parameters():
        for slot, tensor in AdaFactor.empty_state(parameter).items():
            if slot == "column_variance" and parameter.dim() == 2:
                whole += tensor.numel()
            else:
                divided += tensor.numel()
    return divided // num_shards + whole


def _parameter_sizes(model: STIVConfig) -> tuple[int, ...]:
    return tuple(parameter.numel() for parameter in _meta(model).parameters())


def _message_bytes(model: STIVConfig, *, is_half: bool) -> tuple[int, int]:
    """What FSDP2 holds at most besides the shards: of weights, and of gradients.

    Of blocks: the weights of the one at work and of the next one, each also in the message they came in; gradients
    of one, and the float32 messages of two. Outside of blocks weights stay gathered, with gradients and a message.
    """
    network, width = _meta(model), 2 if is_half else FLOAT32_BYTES
    block = sum(p.numel() for p in network.blocks[0].parameters())
    num_blocks = len(network.blocks) + len(network.unmasked_blocks)
    outside = sum(_parameter_sizes(model)) - num_blocks * block
    gathered = 4 * width * block + width * outside
    sent = (width + 2 * FLOAT32_BYTES) * block + (width + FLOAT32_BYTES) * outside
    return gathered, sent


def _meta(model: STIVConfig) -> STIV:
    """The network without content."""
    return _meta_of(model.model_dump_json())


@cache
def _meta_of(model_json: str) -> STIV:
    with torch.device("meta"):
        return STIV(STIVConfig.model_validate_json(model_json))


def _of_pass(stage: StageConfig) -> StageConfig:
    """The settings that a pass depends on, so that stages that do the same are measured once."""
    return StageConfig(
        task="t2i" if stage.num_frames == 1 else "t2v",
        num_frames=stage.num_frames,
        mask_ratio=stage.mask_ratio,
        temporal_mask_ratio=stage.temporal_mask_ratio,
        masked_loss=stage.masked_loss,
        loss_on_given_frames=stage.loss_on_given_frames,
        num_steps=1,
        batch_size=1,
        checkpoint_every_steps=1,
    )


def _buckets(config: TrainConfig, stage_name: str) -> list[tuple[Bucket, float]]:
    """Every shape of a stage with its share of the samples."""
    stage, sizes = config.stages[stage_name], config.data_of(stage_name).sizes
    clips = [Bucket(count, *size) for count in stage.frame_counts for size in sizes]
    shapes = [(clip, (1 - stage.image_share) / len(clips)) for clip in clips]
    if stage.image_share:
        shapes += [(Bucket(1, *size), stage.image_share / len(sizes)) for size in sizes]
    return shapes


def _num_tokens(model: STIVConfig, shape: ClipShape) -> int:
    return token_grid(model, shape).num_represented
