"""How the workers of a stage share its network: a copy on each (DDP), or a part on each (FSDP2, HSDP)."""

import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from modeling.stiv import STIV
from training.config import StageConfig, TrainConfig
from training.spikes import AdaptiveClip


@dataclass(frozen=True)
class Worker:
    """One process of a stage. With more than one, torch.distributed must be initialised."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    leaving: threading.Event = field(default_factory=threading.Event)
    """Set when this process is about to be taken away: all workers then save after their step and stop."""


def shard(model: STIV, config: TrainConfig, worker: Worker) -> None:
    """Divide the parameters over the workers where the config says so; before optimizer and average are made.

    Each block is gathered when it runs and let go afterwards. With bfloat16 the gathered copies are bfloat16,
    while the parts, optimizer and average stay float32, and so do the sums of gradients unless `reduce_precision`
    says otherwise. The model may be on the meta device.
    """
    if config.compile_blocks:
        for block in [*model.blocks, *model.unmasked_blocks]:
            block.compile()
    if config.sharding == "none" or not torch.distributed.is_initialized():
        return
    is_half = config.precision == "bfloat16"
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if is_half else None,
        reduce_dtype=getattr(torch, config.reduce_precision),
        # Autocast decides the types of the activations, as without sharding.
        cast_forward_inputs=False,
    )
    mesh = _mesh(config, worker)
    for block in [*model.blocks, *model.unmasked_blocks]:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def replicate(model: STIV, config: TrainConfig, stage: StageConfig, worker: Worker) -> nn.Module:
    """What to call for a forward pass: the model, or a copy that adds up gradients where it is not sharded."""
    if worker.world_size == 1 or config.sharding != "none":
        return model
    copies = DistributedDataParallel(
        model,
        device_ids=[worker.device] if worker.device.type == "cuda" else None,
        # Else gradients would be held twice.
        gradient_as_bucket_view=True,
        # Without masking the mask token has no gradient.
        find_unused_parameters=stage.mask_ratio == 0 and stage.temporal_mask_ratio == 0,
    )
    if config.reduce_precision == "bfloat16":
        copies.register_comm_hook(None, bf16_compress_hook)
    return copies


def gathering_gradients(network: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
    """For the backward pass of a part of the batch: copies add up their gradients only after the last one.

    Sharded networks always do: to keep gradients whole until then would undo what sharding saves.
    """
    if isinstance(network, DistributedDataParallel) and not is_last:
        return network.no_sync()
    return nullcontext()


def clip_gradients(model: nn.Module, max_norm: float, adaptive: AdaptiveClip | None) -> float:
    """Scale all gradients down to the lower bound; the norm over all workers before that."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    total = nn.utils.get_total_norm(gradients)
    norm = total.full_tensor() if isinstance(total, DTensor) else total
    bound = max_norm if adaptive is None else min(max_norm, adaptive.bound())
    nn.utils.clip_grads_with_norm_(model.parameters(), bound, norm)
    return float(norm)


def wait_for_all(worker: Worker) -> None:
    """Return when every worker has come here."""
    if worker.world_size > 1:
        # NCCL would otherwise guess the device, which hangs when it guesses wrong.
        device_ids = [worker.device.index] if worker.device.type == "cuda" else None
        torch.distributed.barrier(device_ids=device_ids)


def _mesh(config: TrainConfig, worker: Worker) -> DeviceMesh:
    device_type = worker.device.type
    if config.sharding == "full":
        return init_device_mesh(device_type, (worker.world_size,), mesh_dim_names=("shards",))
    group = config.shard_group_size
    assert group is not None, "the config checks this"
    shape = (worker.world_size // group, group)
    return init_device_mesh(device_type, shape, mesh_dim_names=("replicas", "shards"))
