"""Whole stages on real gloo workers: FSDP2, HSDP and DDP against one process, and resumed on another number."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.training.builders import tiny_config, tiny_stage
from tests.training.processes import run_workers
from training.checkpoint import StoredCheckpoint, file_sha256, load_checkpoint
from training.config import TrainConfig
from training.distribute import Worker
from training.loop import prepare_run, train_stage
from training.run_directory import RunDirectory
from training.telemetry import read_metrics

NUM_STEPS = 6


def config_of(
    num_workers: int = 1, stage: dict[str, Any] | None = None, **changes: Any
) -> TrainConfig:
    values = {
        "num_steps": NUM_STEPS,
        "batch_size": 4,
        "checkpoint_every_steps": 3,
        "mask_ratio": 0.4,
    }
    stages = {"stiv": tiny_stage("stiv", **{**values, **(stage or {})})}
    return tiny_config(stages=stages, num_workers=num_workers, **changes)


def train(rank: int, config_json: str, dataset: str, run: str) -> None:
    config = TrainConfig.model_validate_json(config_json)
    # With `min_workers`, as if Ray Train had found room for no more.
    worker = Worker(rank, config.min_workers or config.num_workers)
    train_stage(config, "stiv", [dataset], Path(run), worker)


def train_on(config: TrainConfig, dataset: Path, run: Path) -> list[float]:
    """The loss of each step."""
    prepare_run(config, [dataset], run)
    if config.num_workers == 1:
        train_stage(config, "stiv", [dataset], run)
    else:
        arguments = (config.model_dump_json(), str(dataset), str(run))
        run_workers(train, config.min_workers or config.num_workers, run, *arguments)
    return [line["loss"] for line in read_metrics(RunDirectory(run).stage("stiv").metrics)]


def stop_after_first_checkpoint(run: Path) -> None:
    """As if killed before the second one: what a run finds that stopped in between."""
    folder = RunDirectory(run).stage("stiv").path
    (folder / "result.json").unlink()
    checkpoints = folder / "checkpoints"
    latest = checkpoints / "latest.json"
    state = checkpoints / "step-000003" / "state.json"
    latest.write_text(
        latest.read_text()
        .replace("step-000006", "step-000003")
        .replace(file_sha256(checkpoints / "step-000006" / "state.json"), file_sha256(state))
    )


def tensors_of(run: Path, config: TrainConfig) -> dict[str, Tensor]:
    settings = {"stage": "stiv", "train": config.identity()}
    stored = load_checkpoint(RunDirectory(run).stage("stiv").checkpoints, settings=settings)
    assert isinstance(stored, StoredCheckpoint)
    assert stored.step == config.stages["stiv"].num_steps
    return {
        f"{kind}/{name}": tensor
        for kind in ("weights", "average", "optimizer")
        for name, tensor in stored.whole(kind).items()
    }


def assert_near(
    found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-6
) -> None:
    """Weights and their average. The momentum of a gradient that is nothing but rounding may be anything."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if not name.startswith("optimizer"):
            torch.testing.assert_close(
                found[name],
                tensor,
                rtol=tolerance,
                atol=tolerance,
                msg=partial("{}: {}".format, name),
            )


@pytest.fixture(scope="module")
def one_process(
    dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[float], Path]:
    run = tmp_path_factory.mktemp("one")
    return train_on(config_of(), dataset, run), run


@pytest.mark.parametrize(
    ("num_workers", "changes"),
    [
        (2, {"sharding": "full", "recompute": "full"}),
        (2, {"sharding": "full", "average_on_cpu": True, "stage": {"micro_batch_size": 1}}),
        pytest.param(4, {"sharding": "hybrid", "shard_group_size": 2}, marks=pytest.mark.slow),
        pytest.param(2, {"stage": {"micro_batch_size": 1}}, marks=pytest.mark.slow),
        (1, {"stage": {"micro_batch_size": 3}}),
        (4, {"min_workers": 3, "sharding": "full"}),
        pytest.param(
            4, {"min_workers": 3, "stage": {"micro_batch_size": 1}}, marks=pytest.mark.slow
        ),
    ],
    ids=[
        *("full", "full-in-parts", "hybrid", "copies-in-parts", "one-in-parts"),
        *("uneven", "uneven-copies-in-parts"),
    ],
)
def test_every_division_trains_like_one_process(
    num_workers: int,
    changes: dict[str, Any],
    dataset: Path,
    tmp_path: Path,
    one_process: tuple[list[float], Path],
) -> None:
    config = config_of(num_workers, **changes)
    losses = train_on(config, dataset, tmp_path)
    assert losses == pytest.approx(one_process[0], abs=1e-6)
    assert_near(tensors_of(tmp_path, config), tensors_of(one_process[1], config))


def train_images(rank: int, config_json: str, dataset: str, run: str) -> None:
    config = TrainConfig.model_validate_json(config_json)
    train_stage(config, "t2i", [dataset], Path(run), Worker(rank, config.num_workers))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_compiled_blocks_train_alike_under_fsdp2(dataset: Path, tmp_path: Path) -> None:
    """One block of an image model on one worker: to compile it takes nearly all of the time."""
    # The blocks start as the identity: their own gradients show in the loss of the third step.
    stage = tiny_stage("t2i", num_steps=4, checkpoint_every_steps=4)
    config = tiny_config(stages={"t2i": stage}, sharding="full")
    model = config.model.model_copy(update={"num_unmasked_blocks": 0})
    losses: list[list[float]] = []
    for compile_blocks in (False, True):
        run = tmp_path / str(compile_blocks)
        changes = {"model": model, "compile_blocks": compile_blocks}
        changed = config.model_copy(update=changes)
        prepare_run(changed, [dataset], run)
        run_workers(train_images, 1, run, changed.model_dump_json(), str(dataset), str(run))
        found = read_metrics(RunDirectory(run).stage("t2i").metrics)
        losses.append([line["loss"] for line in found])
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_sharded_stage_resumes_bit_for_bit_and_on_another_number_of_workers(
    dataset: Path, tmp_path: Path, one_process: tuple[list[float], Path]
) -> None:
    two, one = config_of(2, sharding="full"), config_of()
    losses = train_on(two, dataset, tmp_path)
    whole = tensors_of(tmp_path, two)
    folder = RunDirectory(tmp_path).stage("stiv").checkpoints / "step-000006"
    assert len(list(folder.glob("weights-*-of-00002.safetensors"))) == 2
    halves = [load_file(path) for path in sorted(folder.glob("optimizer-*.safetensors"))]
    assert (
        0.4
        < sum(t.numel() for t in halves[0].values())
        / sum(t.numel() for half in halves for t in half.values())
        < 0.6
    )

    stop_after_first_checkpoint(tmp_path)
    assert train_on(two, dataset, tmp_path) == losses
    again = tensors_of(tmp_path, two)
    assert all(tensor.equal(again[name]) for name, tensor in whole.items())

    stop_after_first_checkpoint(tmp_path)
    assert train_on(one, dataset, tmp_path) == pytest.approx(losses, abs=1e-6)
    assert_near(tensors_of(tmp_path, one), whole)

    stop_after_first_checkpoint(one_process[1])
    assert train_on(two, dataset, one_process[1]) == pytest.approx(losses, abs=1e-6)
    assert_near(tensors_of(one_process[1], two), whole)


def test_bfloat16_copies_of_float32_parts_train_like_autocast(
    dataset: Path, tmp_path: Path
) -> None:
    """Gathered as bfloat16, added up and kept as float32."""
    copies, parts = tmp_path / "copies", tmp_path / "parts"
    expected = train_on(config_of(precision="bfloat16"), dataset, copies)
    config = config_of(2, sharding="full", precision="bfloat16")
    losses = train_on(config, dataset, parts)
    assert losses == pytest.approx(expected, rel=2e-2)
    tensors = tensors_of(parts, config)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    # A weight kept in bfloat16 would lose its small steps: its last 16 bits would be zero.
    weight = tensors["weights/blocks.0.feed_forward.hidden.weight"]
    assert not weight.equal(weight.bfloat16().float())
