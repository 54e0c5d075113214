import torch
from torch import nn

from training.ema import WeightAverage


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
    torch.testing.assert_close(average.state_dict()["weight"].item(), expected)


def test_the_average_is_a_copy_and_can_be_restored() -> None:
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.5)
    kept = {name: tensor.clone() for name, tensor in average.state_dict().items()}
    model.weight.data.add_(1.0)
    assert average.state_dict()["weight"].equal(kept["weight"])

    average.update()
    average.load_state_dict(kept)
    assert average.state_dict()["weight"].equal(kept["weight"])


def test_the_model_has_the_average_for_a_while() -> None:
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.5)
    averaged = model.weight.detach().clone()
    model.weight.data.add_(1.0)
    own = model.weight.detach().clone()
    with average.in_place():
        assert model.weight.equal(averaged)
    assert model.weight.equal(own)
    assert average.state_dict()["weight"].equal(averaged)
