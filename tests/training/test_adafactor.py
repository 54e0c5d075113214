"""AdaFactor against a reference written out step by step, and against torch where both agree."""

import torch
from torch import Tensor

from training.adafactor import AdaFactor

SHAPES = [(6, 4), (3, 5, 2), (7,), (1, 8), ()]


def draw(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def reference(start: Tensor, grads: list[Tensor], lr: float, beta1: float, beta2: float) -> Tensor:
    """One tensor, with the full second-moment matrix formed from its row and column means."""
    weight, momentum = start.clone(), torch.zeros_like(start)
    rows, columns, variance = torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0)
    for grad in grads:
        square = grad**2
        if grad.dim() >= 2:
            rows = beta2 * rows + (1 - beta2) * square.mean(-1, keepdim=True)
            columns = beta2 * columns + (1 - beta2) * square.mean(-2, keepdim=True)
            second = rows * columns / rows.mean(-2, keepdim=True)
        else:
            variance = beta2 * variance + (1 - beta2) * square
            second = variance
        update = grad / second.sqrt()
        update = update / max(1.0, float(update.square().mean().sqrt()))
        momentum = beta1 * momentum + (1 - beta1) * update
        weight = weight - lr * momentum
    return weight


def run(optimizer: torch.optim.Optimizer, weights: list[Tensor], num_steps: int) -> None:
    for step in range(num_steps):
        for weight, grad in zip(weights, draw(100 + step), strict=True):
            weight.grad = grad.to(weight.dtype)
        optimizer.step()


def test_it_equals_the_written_out_reference() -> None:
    start = draw(0)
    weights = [tensor.clone().float().requires_grad_() for tensor in start]
    run(AdaFactor(weights, learning_rate=0.05, beta1=0.9, beta2=0.999), weights, 6)

    for index, weight in enumerate(weights):
        grads = [draw(100 + step)[index] for step in range(6)]
        expected = reference(start[index], grads, lr=0.05, beta1=0.9, beta2=0.999)
        torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_it_equals_torch_without_memory_and_parameter_scale() -> None:
    # torch scales the rate by max(eps2, rms of the tensor), and lets its decay depend on the step: with
    # eps2 = 1 on small weights and a decay exponent of 0 both drop out.
    ours = [tensor.float().mul(0.01).requires_grad_() for tensor in draw(0)]
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
    run(AdaFactor(ours, learning_rate=1e-3, beta1=0.0, beta2=0.0), ours, 5)
    run(torch.optim.Adafactor(theirs, lr=1e-3, beta2_decay=-1e-12, eps=(1e-30, 1.0)), theirs, 5)

    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


def test_a_scheduled_decay_equals_that_of_torch() -> None:
    ours = [tensor.float().mul(0.01).requires_grad_() for tensor in draw(0)]
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
    run(AdaFactor(ours, learning_rate=1e-3, beta1=0.0, beta2_power=0.8), ours, 20)
    run(torch.optim.Adafactor(theirs, lr=1e-3, beta2_decay=-0.8, eps=(1e-30, 1.0)), theirs, 20)

    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


def test_without_beta1_no_momentum_is_kept() -> None:
    weight = torch.ones(3, 4, requires_grad=True)
    optimizer = AdaFactor([weight], learning_rate=0.1, beta1=0.0)
    weight.grad = torch.ones(3, 4)
    optimizer.step()
    assert set(optimizer.state[weight]) == {"row_variance", "column_variance"}


def test_a_bfloat16_momentum_is_rounded_after_the_step() -> None:
    exact, rounded = (torch.ones(3, 4, requires_grad=True) for _ in range(2))
    optimizers = [
        AdaFactor([exact], learning_rate=0.1),
        AdaFactor([rounded], learning_rate=0.1, momentum_dtype=torch.bfloat16),
    ]
    generator = torch.Generator().manual_seed(0)
    for step in range(2):
        grad = torch.randn(3, 4, generator=generator)
        exact.grad, rounded.grad = grad.clone(), grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        if step == 0:
            assert rounded.equal(exact)
    # The second step builds on what was rounded, by at most a bit in 256 of momentum.
    assert not rounded.equal(exact)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.1 * 0.9 * 0.1 / 128)
    assert optimizers[1].state[rounded]["momentum"].dtype == torch.bfloat16


def test_a_parameter_without_gradient_is_left_alone() -> None:
    used, unused = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = AdaFactor([used, unused], learning_rate=0.1)
    used.grad = torch.ones(3)
    optimizer.step()

    assert not used.equal(torch.ones(3))
    assert unused.equal(torch.ones(3))
    assert unused not in optimizer.state


def test_zero_gradients_give_finite_weights() -> None:
    weight = torch.ones(4, 4, requires_grad=True)
    weight.grad = torch.zeros(4, 4)
    AdaFactor([weight], learning_rate=0.1).step()

    assert weight.equal(torch.ones(4, 4))
