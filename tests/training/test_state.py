"""What is saved of a stage and taken over again, whatever its optimizer keeps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.builders import tiny_config, tiny_stage
from training.checkpoint import Snapshot, StoredCheckpoint, load_checkpoint
from training.checkpoint_writer import CheckpointWriter, KeepPolicy
from training.config import OptimizerConfig
from training.distribute import Worker
from training.errors import CheckpointError
from training.run_directory import RunDirectory
from training.state import TrainState, start_state


def state_of(folder: Path, **optimizer: Any) -> TrainState:
    settings = OptimizerConfig.model_validate({"learning_rate": 1e-3, **optimizer})
    config = tiny_config(stages={"t2v": tiny_stage("t2v", optimizer=settings)})
    return start_state(config, "t2v", RunDirectory(folder), Worker())


def step(state: TrainState, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in state.model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)
    state.take_step(1e-3, 1.0)


def stored(snapshot: Snapshot, folder: Path) -> StoredCheckpoint:
    policy = KeepPolicy(last=1)
    with CheckpointWriter(folder, Worker(), settings={}, keep=policy) as writer:
        writer.save(snapshot)
    found = load_checkpoint(folder, settings={})
    assert found is not None
    return found


def with_slots(snapshot: Snapshot, slot: str) -> Snapshot:
    """As if the optimizer had kept one more tensor for each parameter."""
    more: dict[str, Tensor] = {
        f"{name}/{slot}": torch.ones(2) for name in snapshot.kinds["weights"]
    }
    kinds = {**snapshot.kinds, "optimizer": {**snapshot.kinds["optimizer"], **more}}
    return replace(snapshot, kinds=kinds)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"beta2_power": 0.8},
        {"beta1": 0.0},
        {"momentum_dtype": "bfloat16"},
        {"name": "adamw"},
    ],
    ids=str,
)
def test_a_state_goes_on_as_if_it_had_never_stopped(
    optimizer: dict[str, Any], tmp_path: Path
) -> None:
    whole = state_of(tmp_path, **optimizer)
    step(whole, 0)
    resumed = state_of(tmp_path, **optimizer)
    resumed.restore(stored(whole.snapshot(1, 0.0), tmp_path / "saved"))
    for state in (whole, resumed):
        step(state, 1)
    expected = dict(whole.model.named_parameters())
    assert all(w.equal(expected[name]) for name, w in resumed.model.named_parameters())


def test_a_momentum_that_older_versions_kept_for_nothing_is_left_out(tmp_path: Path) -> None:
    state = state_of(tmp_path, beta1=0.0)
    step(state, 0)
    older = stored(with_slots(state.snapshot(1, 0.0), "momentum"), tmp_path / "saved")
    state.restore(older)
    assert "momentum" not in state.optimizer.state[state.model.mask_token_D]


def test_the_state_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    state = state_of(tmp_path)
    step(state, 0)
    other = stored(with_slots(state.snapshot(1, 0.0), "exp_avg"), tmp_path / "saved")
    with pytest.raises(CheckpointError, match=r"holds .*/exp_avg of an optimizer, this one keeps"):
        state.restore(other)
