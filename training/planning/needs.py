"""What a stage needs of each GPU: memory of every kind, tokens, operations and time."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch

from modeling.config import STIVConfig
from modeling.flops import ClipShape, forward_flops, token_grid
from modeling.settings import LATENT_DOWNSAMPLING, RecomputePolicy, given_positions
from modeling.stiv import STIV
from training.config import OptimizerConfig, StageConfig, TrainConfig
from training.optimizers import empty_state, make_optimizer
from training.planning.memory import PassCase, estimated_pass_bytes, pass_bytes
from training.streaming.buckets import Bucket, batch_size_of

FLOAT32_BYTES = 4
_WIDTHS = {"float32": FLOAT32_BYTES, "bfloat16": 2}
CONTEXT_BYTES = 2**30
"""Of CUDA, its libraries and NCCL on each GPU. Ours; to be measured."""
_KL_PARAMETERS = 84_000_000
"""Of the image VAE of Stable Diffusion, and nearly so of its successors."""
_TEXT_LAYERS, _TEXT_VOCABULARY = 32, 50_000
"""Of the text tower of ViT-bigG-14; other towers are taken to be as deep at their width."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a run lies on its GPUs."""

    num_gpus: int
    sharding: Literal["none", "hybrid", "full"]
    num_shards: int
    """GPUs over which weights, optimizer state and average are divided; 1 where each has all of them."""
    recompute: RecomputePolicy
    average_on_cpu: bool = False
    """The average in host memory, divided like the rest."""
    device: Literal["cpu", "cuda"] = "cuda"
    """On the CPU too, where a plan can be held against what is used."""

    @property
    def shard_group_size(self) -> int | None:
        """As the config has it."""
        return self.num_shards if self.sharding == "hybrid" else None


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


def state_memory(config: TrainConfig, stage_name: str, layout: Layout) -> MemoryBytes:
    """Without activations: what a run starts with, and its gradients."""
    model = config.model_of(stage_name)
    weights = FLOAT32_BYTES * sum(_parameter_sizes(model)) // layout.num_shards
    settings = config.stages[stage_name].optimizer
    return MemoryBytes(
        weights=weights,
        gradients=weights,
        optimizer=optimizer_bytes(model, settings, layout.num_shards)[0],
        average=0 if layout.average_on_cpu else weights,
        activations=0,
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
    state = state_memory(config, stage_name, layout)
    weights = state.weights
    _, update = optimizer_bytes(model, stage.optimizer, layout.num_shards)
    gathered, sent = _message_bytes(config, model) if is_sharded else (0, 0)
    # Copies have a place for gradients from the start, and a second micro-batch finds those of the first.
    early = weights if accumulates or (layout.num_gpus > 1 and not is_sharded) else 0
    late = 0 if case.keeps_gradients else weights
    most = max(
        early + max(passed.before, passed.last_block) + gathered + sent,
        late + passed.rest + gathered + sent,
        weights + update,
    )
    return replace(state, activations=most - weights)


def reserved_bytes(config: TrainConfig) -> int:
    """What lies on each GPU besides the network: the frozen encoders, and the libraries."""
    encoders, width = config.encoders, config.model.text_width
    autoencoder = text = 0
    if encoders.autoencoder == "kl":
        autoencoder = _KL_PARAMETERS * (
            FLOAT32_BYTES if encoders.kl.dtype == "float32" else FLOAT32_BYTES // 2
        )
    if encoders.text_encoder in ("open_clip", "t5"):
        text = FLOAT32_BYTES * (12 * _TEXT_LAYERS * width**2 + _TEXT_VOCABULARY * width)
    return CONTEXT_BYTES + autoencoder + text


def optimizer_bytes(
    model: STIVConfig, settings: OptimizerConfig, num_shards: int
) -> tuple[int, int]:
    """State of the optimizer on each GPU, and what its step holds for a moment."""
    sizes = _parameter_sizes(model)
    # Torch's AdamW takes the root of the second moment for all parameters at once.
    moment = sum(sizes) if settings.name == "adamw" else 2 * max(sizes)
    divided, whole = _state_bytes(model.model_dump_json(), settings.model_dump_json())
    return divided // num_shards + whole, FLOAT32_BYTES * moment // num_shards


@cache
def _state_bytes(model_json: str, settings_json: str) -> tuple[int, int]:
    """Of the optimizer: what is divided over the shards, and what every worker has."""
    network = _meta_of(model_json)
    optimizer = make_optimizer(network, OptimizerConfig.model_validate_json(settings_json))
    divided = whole = 0
    for parameter in network.parameters():
        for slot, tensor in empty_state(optimizer, parameter).items():
            # The column means of a matrix, which every worker has.
            if slot == "column_variance" and parameter.dim() == 2:
                whole += tensor.nbytes
            else:
                divided += tensor.nbytes
    return divided, whole


def _parameter_sizes(model: STIVConfig) -> tuple[int, ...]:
    return tuple(parameter.numel() for parameter in _meta(model).parameters())


def _message_bytes(config: TrainConfig, model: STIVConfig) -> tuple[int, int]:
    """What FSDP2 holds at most besides the shards: of weights, and of gradients.

    Of blocks: the weights of the one at work and of the next one, each also in the message they came in; gradients
    of one, and the messages of two. Outside of blocks weights stay gathered, with gradients and a message.
    """
    network = _meta(model)
    width, message = _WIDTHS[config.precision], _WIDTHS[config.reduce_precision]
    block = sum(p.numel() for p in network.blocks[0].parameters())
    num_blocks = len(network.blocks) + len(network.unmasked_blocks)
    outside = sum(_parameter_sizes(model)) - num_blocks * block
    gathered = 4 * width * block + width * outside
    sent = (width + 2 * message) * block + (width + message) * outside
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
