"""How gradients are added up over real gloo workers."""

from pathlib import Path
from typing import Literal

import pytest
import torch

from tests.training.planning.steps import NUM_TEXT_TOKENS, STAGE, config_of, with_content
from tests.training.processes import run_workers
from training.distribute import Worker, replicate
from training.planning.memory import PassCase, step_inputs
from training.planning.needs import largest_shape
from training.run_directory import RunDirectory
from training.shards import local
from training.state import start_state
from training.step import stage_loss

Precision = Literal["float32", "bfloat16"]


def has_rounded_gradients(
    rank: int, sharding: str, precision: Precision, folder: Path
) -> tuple[bool, torch.Tensor]:
    """Whether every number of the gradients is one of bfloat16, and those of the last layer."""
    config = config_of(depth=1, num_workers=2, sharding=sharding, reduce_precision=precision)
    stage, model = config.stages[STAGE], config.model_of(STAGE)
    worker = Worker(rank, 2)
    state = start_state(config, STAGE, RunDirectory(folder), worker)
    network = replicate(state.model, config, stage, worker)
    case = PassCase(
        model=model,
        stage=stage,
        clip=largest_shape(config, STAGE, NUM_TEXT_TOKENS),
        micro_batch=1,
        recompute="none",
        device="cpu",
        half=False,
        half_weights=False,
        keeps_gradients=True,
    )
    torch.manual_seed(rank)
    stage_loss(network, (model, stage), *with_content(step_inputs(case))).loss.backward()
    gradients = [local(p.grad) for p in state.model.parameters() if p.grad is not None]
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    last = state.model.final_layer.linear.bias.grad
    assert last is not None
    return all(g.equal(g.bfloat16().float()) for g in gradients), local(last).clone()


def compare(rank: int, sharding: str, folder: Path) -> None:
    is_rounded, expected = has_rounded_gradients(rank, sharding, "float32", folder)
    assert not is_rounded
    is_rounded, found = has_rounded_gradients(rank, sharding, "bfloat16", folder)
    assert is_rounded
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2 * float(expected.abs().max()))


@pytest.mark.parametrize("sharding", ["none", "full"])
@pytest.mark.filterwarnings("default")
def test_gradients_are_sent_in_the_precision_that_is_asked_for(
    sharding: str, tmp_path: Path
) -> None:
    run_workers(compare, 2, tmp_path, sharding, tmp_path)
