"""AdaFactor and the weight average under FSDP2 on gloo, against one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tests.training.processes import run_workers
from training.adafactor import AdaFactor
from training.ema import WeightAverage
from training.shards import HeldPart, local, part_of, sharded_like

NUM_STEPS = 100

OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "scheduled decay": {"beta2_power": 0.8},
    "no momentum": {"beta1": 0.0},
    "bfloat16 momentum": {"momentum_dtype": torch.bfloat16},
}


class Shapes(nn.Module):
    """Dims that divide evenly, unevenly, and into less than one row for each worker."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in {
            "even": (8, 6),
            "uneven": (5, 3),
            "one_row": (1, 7),
            "vector": (6,),
            "deep": (3, 4, 5),
        }.items():
            self.register_parameter(
                name, nn.Parameter(torch.randn(shape, generator=generator), requires_grad=True)
            )


def grads(step: int, model: nn.Module) -> dict[str, Tensor]:
    """Sizes over some orders of magnitude, so that updates are bounded in some steps."""
    generator = torch.Generator().manual_seed(1000 + step)
    size = 10.0 ** torch.randint(-3, 3, (1,), generator=generator).item()
    return {
        name: size * torch.randn(weight.shape, generator=generator)
        for name, weight in model.named_parameters()
    }


def train(
    model: nn.Module, options: dict[str, Any], *, on_cpu: bool = False
) -> tuple[AdaFactor, WeightAverage]:
    optimizer = AdaFactor(model.parameters(), learning_rate=1e-2, **options)
    average = WeightAverage(model, 0.9, on_cpu=on_cpu)
    for step in range(NUM_STEPS):
        for name, grad in grads(step, model).items():
            weight = model.get_parameter(name)
            part = part_of(weight)
            weight.grad = sharded_like(
                weight, grad[part.start : part.stop].clone(), tuple(weight.shape)
            )
        optimizer.step()
        average.update()
    return optimizer, average


def tensors_of(model: nn.Module, optimizer: AdaFactor, average: WeightAverage) -> dict[str, Tensor]:
    found = {f"weight/{name}": weight.detach() for name, weight in model.named_parameters()}
    for name, weight in model.named_parameters():
        for slot, tensor in optimizer.state[weight].items():
            found[f"{slot}/{name}"] = tensor
    found = {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        for name, tensor in found.items()
    }
    return found | {f"average/{name}": whole(t) for name, t in average.state_dict().items()}


def whole(tensor: Tensor | HeldPart) -> Tensor:
    """Put together from all workers."""
    if not isinstance(tensor, HeldPart):
        return tensor
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, (tensor.part.start, tensor.tensor))
    return torch.cat([part for _, part in sorted(dict(parts).items())])


def train_sharded(rank: int, world_size: int, mesh_shape: tuple[int, ...], folder: str) -> None:
    names = ("replicas", "shards")[-len(mesh_shape) :]
    mesh = init_device_mesh("cpu", mesh_shape, mesh_dim_names=names)
    for name, options in OPTIONS.items():
        model = Shapes()
        fully_shard(model, mesh=mesh)
        optimizer, average, num_reductions = counted(model, options, on_cpu=rank == 0)
        # Two for each step: the columns of all matrices, and the sizes of all updates.
        assert num_reductions == 2 * NUM_STEPS
        if world_size > 1 and name == "paper":
            momentum = optimizer.state[model.get_parameter("even")]["momentum"]
            assert local(momentum).shape[0] == 8 // mesh_shape[-1]
        found = tensors_of(model, optimizer, average)
        if rank == 0:
            path = Path(folder) / f"{name}.safetensors"
            save_file({key: tensor.contiguous() for key, tensor in found.items()}, path)


def counted(
    model: nn.Module, options: dict[str, Any], *, on_cpu: bool
) -> tuple[AdaFactor, WeightAverage, int]:
    """Trained, with the number of messages that took."""
    num_reductions = 0
    reduce = torch.distributed.all_reduce

    def count(tensor: Tensor, **settings: Any) -> None:
        nonlocal num_reductions
        num_reductions += 1
        reduce(tensor, **settings)

    torch.distributed.all_reduce = count
    try:
        return *train(model, options, on_cpu=on_cpu), num_reductions
    finally:
        torch.distributed.all_reduce = reduce


@pytest.mark.parametrize("mesh_shape", [(1,), (2,), (4,), (2, 2)])
def test_sharded_equals_unsharded(mesh_shape: tuple[int, ...], tmp_path: Path) -> None:
    world_size = torch.Size(mesh_shape).numel()
    run_workers(train_sharded, world_size, tmp_path, world_size, mesh_shape, str(tmp_path))
    for option, options in OPTIONS.items():
        model = Shapes()
        expected = tensors_of(model, *train(model, options))
        found = load_file(tmp_path / f"{option}.safetensors")
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            scale = max(1.0, float(tensor.abs().max()))
            assert found[name].dtype == tensor.dtype
            # A number that lies between two of bfloat16 may be rounded to the other one.
            tolerance = 1e-6 if tensor.dtype == torch.float32 else 2.0**-7
            torch.testing.assert_close(
                found[name] / scale,
                tensor / scale,
                rtol=tolerance,
                atol=tolerance,
                msg=lambda m, n=f"{option}: {name}": f"{n}: {m}",
            )
