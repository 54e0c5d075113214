"""A chain of two sizes whose last stage starts from both: the weight flow, and latents of each size."""

from pathlib import Path

import pytest
import torch

from modeling.stiv import STIV
from tests.training.builders import tiny_config, tiny_stage
from tests.training.planning.steps import STAGE, config_of, peak_of
from tests.training.processes import pretended_workers
from training.chain import stages_for
from training.checkpoint import load_average
from training.config import TrainConfig
from training.distribute import Worker
from training.errors import TrainError
from training.initialise import initialise
from training.loop import prepare_run, train_stage
from training.randomness import derive_seed
from training.run_directory import RunDirectory
from training.shards import local, part_of
from training.state import TrainState, start_state

LOW, HIGH = ((32, 48),), ((48, 64),)


def two_sizes() -> TrainConfig:
    return tiny_config(
        stages={
            "t2i_low": tiny_stage("t2i", sizes_px=LOW),
            "t2i_high": tiny_stage("t2i", sizes_px=HIGH),
            "t2v_low": tiny_stage("t2v", sizes_px=LOW, init_from="t2i_low", sampling_stride=1),
            "t2v_high": tiny_stage(
                "t2v", sizes_px=HIGH, init_from="t2i_high", temporal_from="t2v_low"
            ),
        }
    )


def test_both_gives_time_from_one_stage_and_all_else_from_the_other(
    dataset: Path, tmp_path: Path
) -> None:
    config = two_sizes()
    plans = prepare_run(config, [dataset], tmp_path)
    shapes = {name: str(plan.buckets[0].bucket) for name, plan in plans.items()}
    assert shapes == {
        "t2i_low": "1x32x48",
        "t2i_high": "1x48x64",
        "t2v_low": "4x32x48",
        "t2v_high": "4x48x64",
    }
    run = RunDirectory(tmp_path)
    model = STIV(config.model_of("t2v_high"), seed=9)
    train_stage(config, "t2i_low", [dataset], tmp_path)
    train_stage(config, "t2i_high", [dataset], tmp_path)
    with pytest.raises(TrainError, match="starts from stage t2v_low, which is not finished"):
        initialise(model, config, "t2v_high", run)
    train_stage(config, "t2v_low", [dataset], tmp_path)

    initialise(model, config, "t2v_high", run)
    images, videos = (average(run, name) for name in ("t2i_high", "t2v_low"))
    for name, tensor in model.state_dict().items():
        if ".temporal_attention" in name:
            assert tensor.equal(videos[name]), name
        elif not name.startswith(("patch_embedding", "final_layer.linear")):
            assert tensor.equal(images[name]), name
    assert_parts_start_like(model, config, run)
    train_stage(config, "t2v_high", [dataset], tmp_path)
    result = run.stage("t2v_high").result()
    assert result is not None
    assert result.num_steps == 4


def assert_parts_start_like(model: STIV, config: TrainConfig, run: RunDirectory) -> None:
    sharded = config.model_copy(update={"num_workers": 2, "sharding": "full"})
    with pretended_workers(2, rank=1):
        state = start_state(sharded, "t2v_high", run, Worker(1, 2))
    whole = model.state_dict()
    for name, weight in state.model.named_parameters():
        part = part_of(weight)
        assert local(weight).equal(whole[name][part.start : part.stop]), name


def average(run: RunDirectory, stage: str) -> dict[str, torch.Tensor]:
    result = run.stage(stage).result()
    assert result is not None
    return load_average(run.path / result.checkpoint)


def test_a_stage_alone_is_trained_with_what_it_needs() -> None:
    assert stages_for(two_sizes(), "t2v_low") == ["t2i_low", "t2v_low"]
    with pytest.raises(TrainError, match="there is no stage t3v; the run has t2i_low, t2i_high"):
        stages_for(two_sizes(), "t3v")


def test_a_worker_starts_with_its_part_of_the_same_weights_and_never_holds_the_whole(
    tmp_path: Path,
) -> None:
    config = config_of(depth=12, num_workers=4, sharding="full")
    states: list[TrainState] = []

    def start() -> None:
        states.append(start_state(config, STAGE, RunDirectory(tmp_path), Worker(2, 4)))

    with pretended_workers(4, rank=2):
        taken = peak_of(start)
    whole = STIV(config.model_of(STAGE), seed=derive_seed(config.seed, STAGE, "weights"))
    # A quarter of the weights and as much of their average, and the largest tensor by itself.
    assert taken < 0.6 * sum(weight.nbytes for weight in whole.parameters())
    expected = whole.state_dict()
    for name, weight in states[0].model.named_parameters():
        part = part_of(weight)
        assert local(weight).equal(expected[name][part.start : part.stop]), name
