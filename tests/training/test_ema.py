"""The weight average, whole and in parts; on a GPU as far as torch tells without one."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from tests.training.processes import pretended_workers
from training.ema import WeightAverage
from training.shards import is_first_replica, local, part_of


def weight_of(average: WeightAverage) -> Tensor:
    return local(average.state_dict()["weight"])


def test_the_average_equals_its_closed_form() -> None:
    decay, history = 0.8, [1.0, 3.0, -2.0, 0.5]
    model = nn.Linear(1, 1, bias=False).double()
    model.weight.data.fill_(history[0])
    average = WeightAverage(model, decay)
    for value in history[1:]:
        model.weight.data.fill_(value)
        average.update()

    n = len(history) - 1
    expected = decay**n * history[0] + (1 - decay) * sum(
        decay ** (n - i) * history[i] for i in range(1, n + 1)
    )
    torch.testing.assert_close(weight_of(average).item(), expected)


def test_the_average_is_a_copy() -> None:
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.5)
    kept = weight_of(average).clone()
    model.weight.data.add_(1.0)
    assert weight_of(average).equal(kept)


def test_the_model_has_the_average_for_a_while() -> None:
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.5)
    averaged = model.weight.detach().clone()
    model.weight.data.add_(1.0)
    own = model.weight.detach().clone()
    with average.in_place():
        assert model.weight.equal(averaged)
    assert model.weight.equal(own)
    assert weight_of(average).equal(averaged)


@pytest.mark.parametrize(("on_cpu", "device"), [(True, "cpu"), (False, "cuda")])
def test_the_average_of_weights_on_gpus_is_where_it_is_wanted(on_cpu: bool, device: str) -> None:
    """A part in host memory must not become a DTensor: that moves it to the device of its mesh."""
    model = nn.Module()
    with pretended_workers(4, rank=1):
        mesh = init_device_mesh("cuda", (4,))
        with FakeTensorMode():
            part = torch.empty(2, 6, device="cuda")
            weight = DTensor.from_local(part, mesh, (Shard(0),), run_check=False)
            model.register_parameter("weight", nn.Parameter(weight))
            average = WeightAverage(model, 0.9, on_cpu=on_cpu)
            with average.in_place():
                pass
            average.update()
        held = average.state_dict()["weight"]
        assert local(held).device.type == device
        assert local(weight).device.type == "cuda"
        assert (part_of(held).shape, part_of(held).start, part_of(held).stop) == ((8, 6), 2, 4)
        assert is_first_replica(held)
