"""The same numbers by every way of computing them: precision, recomputed activations, compilation."""

from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from modeling.flow import prediction_loss, velocity
from modeling.masking import KeptPositions
from modeling.settings import RecomputePolicy
from modeling.stiv import STIV
from tests.modeling.builders import conditions, latents, randomize, small_config, times

NOISE, DATA = latents(seed=2), latents(seed=1)
KEPT = KeptPositions(torch.tensor([0, 2, 3]))


def network(recompute: RecomputePolicy = "none") -> STIV:
    return randomize(STIV(small_config(depth=3), recompute=recompute))


def loss_and_gradients(model: torch.nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    known = conditions(NOISE, given=(0,), given_latents=DATA)
    predicted = model(NOISE, times(), known, kept=KEPT)
    loss, _ = prediction_loss(predicted, velocity(DATA, NOISE), torch.ones(2, 4))
    loss.backward()
    named = {name.removeprefix("_orig_mod."): p.grad for name, p in model.named_parameters()}
    return loss.detach(), {name: grad for name, grad in named.items() if grad is not None}


@pytest.mark.parametrize("policy", [p for p in get_args(RecomputePolicy) if p != "none"])
def test_recomputed_activations_give_the_same_gradients(policy: RecomputePolicy) -> None:
    expected_loss, expected = loss_and_gradients(network())
    loss, gradients = loss_and_gradients(network(policy))
    assert torch.equal(loss, expected_loss)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7)


def _saved_bytes(policy: RecomputePolicy) -> int:
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.nbytes
        return tensor

    model = network(policy)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        model(NOISE, times(), conditions(NOISE), kept=KEPT)
    return total


def test_recomputing_everything_keeps_little() -> None:
    assert _saved_bytes("full") < 0.3 * _saved_bytes("none")


@pytest.mark.parametrize(
    ("policy", "calls"),
    [("none", 15), ("full", 30), ("keep_self_attention", 20), ("selective", 15)],
)
def test_the_policy_of_the_paper_does_self_attention_once(
    policy: RecomputePolicy, calls: int
) -> None:
    """Of three attentions in each of five blocks, it does only the one to text again."""
    assert _num_calls(policy, "aten::_scaled_dot_product_flash_attention_for_cpu") == calls


def test_the_selective_policy_does_matrix_products_once() -> None:
    in_blocks = _num_calls("full", "aten::addmm") - _num_calls("none", "aten::addmm")
    assert _num_calls("selective", "aten::addmm") == in_blocks


def _num_calls(policy: RecomputePolicy, operator: str) -> int:
    """Of an operator in a forward and backward pass; in blocks only where some of their calls are kept."""
    with torch.profiler.profile(acc_events=True) as profile:
        loss_and_gradients(network(policy))
    found = [e for e in profile.events() or () if e.name == operator]
    # Selective checkpointing looks at every call first: the ones that ran lie inside of those it saw.
    ran = [e for e in found if getattr(e.cpu_parent, "name", "") == "PythonDispatchMode"]
    return len(ran or found)


def test_bfloat16_stays_close_to_float32() -> None:
    """Relative errors of output and gradients; bfloat16 has 8 bits, 0.4% of a number."""
    expected_loss, expected = loss_and_gradients(network())
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradients = loss_and_gradients(network())
    assert abs(loss - expected_loss) < 0.01 * expected_loss
    whole = torch.cat([gradient.flatten() for gradient in expected.values()])
    rounded = torch.cat([gradients[name].float().flatten() for name in expected])
    assert (rounded - whole).norm() < 0.03 * whole.norm()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("policy", get_args(RecomputePolicy))
def test_compiled_blocks_agree_with_eager_ones(policy: RecomputePolicy) -> None:
    expected_loss, expected = loss_and_gradients(network(policy))
    model = network(policy)
    for block in [*model.blocks, *model.unmasked_blocks]:
        block.compile()
    loss, gradients = loss_and_gradients(model)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5)
