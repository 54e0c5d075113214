"""Which part of a tensor a worker has. FSDP2 divides every parameter along its first dim."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor, Replicate, Shard


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a tensor along its first dim."""

    shape: tuple[int, ...]
    """Of the whole tensor."""
    start: int
    stop: int

    @property
    def is_whole(self) -> bool:
        return not self.shape or (self.start, self.stop) == (0, self.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class HeldPart:
    """This worker's part of a tensor, on whatever device: that of a DTensor is always on the device of its mesh."""

    tensor: Tensor
    part: Part
    is_first_replica: bool


def held_like(model: Tensor, mine: Tensor) -> Tensor | HeldPart:
    """`mine` as the part that this worker has of a tensor divided as `model` is; `mine` itself if that is whole."""
    if not isinstance(model, DTensor):
        return mine
    return HeldPart(mine, part_of(model), is_first_replica(model))


def local(tensor: Tensor | HeldPart) -> Tensor:
    """The part of a tensor that this worker has, sharing its memory; the tensor itself if it is not sharded."""
    if isinstance(tensor, HeldPart):
        return tensor.tensor
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part_of(tensor: Tensor | HeldPart) -> Part:
    """Which rows of a tensor this worker has."""
    if isinstance(tensor, HeldPart):
        return tensor.part
    shape = tuple(tensor.shape)
    if not isinstance(tensor, DTensor):
        return Part(shape, 0, shape[0] if shape else 1)
    assert all(p in (Replicate(), Shard(0)) for p in tensor.placements), "FSDP2 divides along dim 0"
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None, "the mesh spans all workers"
    start, stop = 0, shape[0] if shape else 1
    for dim, placement in enumerate(tensor.placements):
        if placement == Shard(0):
            # As `torch.chunk`: the last ones may have fewer rows, or none.
            chunk = -(-(stop - start) // tensor.device_mesh.size(dim))
            start = min(start + coordinate[dim] * chunk, stop)
            stop = min(start + chunk, stop)
    return Part(shape, start, stop)


@torch.no_grad()
def fill_part(tensor: Tensor, whole: Tensor) -> None:
    """Take over from the whole tensor, on whatever device, the rows that this worker has."""
    part = part_of(tensor)
    if part.start < part.stop:
        local(tensor).copy_(whole[part.start : part.stop] if whole.dim() else whole)


def sharded_like(
    model: Tensor, mine: Tensor, shape: tuple[int, ...], *, everywhere: bool = False
) -> Tensor:
    """`mine` as this worker's part of a tensor of `shape` that is divided as `model` is; with `everywhere`, as
    one that every worker has."""
    if not isinstance(model, DTensor):
        return mine
    placements = (Replicate(),) * len(model.placements) if everywhere else model.placements
    return DTensor.from_local(
        mine.contiguous(),
        model.device_mesh,
        placements,
        run_check=False,
        shape=torch.Size(shape),
        stride=torch.empty(shape, device="meta").stride(),
    )


def shard_group(tensors: Sequence[Tensor]) -> ProcessGroup | None:
    """The workers over which these tensors are divided; None if every worker has all of them."""
    for tensor in tensors:
        if isinstance(tensor, DTensor):
            for dim, placement in enumerate(tensor.placements):
                if placement == Shard(0):
                    return tensor.device_mesh.get_group(dim)
    return None


def is_first_replica(tensor: Tensor | HeldPart) -> bool:
    """Whether this worker is the one to save its part: others may have the same."""
    if isinstance(tensor, HeldPart):
        return tensor.is_first_replica
    if not isinstance(tensor, DTensor):
        return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None, "the mesh spans all workers"
    return all(
        place == 0
        for place, placement in zip(coordinate, tensor.placements, strict=True)
        if placement == Replicate()
    )
