"""A run that goes on from finished stages of another one."""

import json
from pathlib import Path

import pytest
import torch

from tests.training.builders import tiny_config
from training.branch import take_over
from training.checkpoint import STATE_NAME, file_sha256, load_average
from training.config import TrainConfig
from training.errors import TrainError
from training.loop import prepare_run, train_stage
from training.run_directory import RunDirectory


@pytest.fixture
def trained(dataset: Path, tmp_path: Path) -> RunDirectory:
    """A run whose images are finished."""
    config = tiny_config()
    prepare_run(config, [dataset], tmp_path / "base")
    train_stage(config, "t2i", [dataset], tmp_path / "base")
    return RunDirectory(tmp_path / "base")


def changed(stage: str, **changes: object) -> TrainConfig:
    config = tiny_config()
    other = config.stages[stage].model_copy(update=changes)
    return config.model_copy(update={"stages": {**config.stages, stage: other}})


def claimed(config: TrainConfig, path: Path) -> RunDirectory:
    run = RunDirectory(path)
    run.claim(config, "the shards of this run")
    return run


def average(run: RunDirectory, stage: str) -> dict[str, torch.Tensor]:
    result = run.stage(stage).result()
    assert result is not None
    return load_average(run.path / result.checkpoint)


def test_a_branch_trains_on_from_the_same_weights_and_says_where_they_are_from(
    dataset: Path, tmp_path: Path, trained: RunDirectory
) -> None:
    config = changed("t2v", text_dropout_prob=0.5)
    run = claimed(config, tmp_path / "branch")
    assert list(take_over(config, list(config.stages), run, trained)) == ["t2i"]

    theirs = average(trained, "t2i")
    assert all(tensor.equal(theirs[name]) for name, tensor in average(run, "t2i").items())
    origin = json.loads(run.stage("t2i").origin.read_bytes())
    state = trained.path / origin["checkpoint"] / STATE_NAME
    assert origin["run"] == str(trained.path)
    assert origin["stage"] == "t2i"
    assert origin["state_sha256"] == file_sha256(state)
    assert origin["shards"] == trained.fingerprint()
    assert run.autoencoder.read_bytes() == trained.autoencoder.read_bytes()

    train_stage(config, "t2v", [dataset], run.path)
    assert run.stage("t2v").result() is not None


def test_a_branch_gives_what_the_run_itself_would_have_given(
    dataset: Path, tmp_path: Path, trained: RunDirectory
) -> None:
    config = tiny_config()
    run = claimed(config, tmp_path / "branch")
    take_over(config, list(config.stages), run, trained)
    for each in (trained, run):
        train_stage(config, "t2v", [dataset], each.path)
    theirs = average(trained, "t2v")
    assert all(tensor.equal(theirs[name]) for name, tensor in average(run, "t2v").items())


def test_a_stage_with_other_settings_is_not_taken_over(
    tmp_path: Path, trained: RunDirectory
) -> None:
    config = changed("t2i", num_steps=8)
    run = claimed(config, tmp_path / "branch")
    with pytest.raises(TrainError, match=r"t2i: .*num_steps is 4 in the run and 8 now"):
        take_over(config, list(config.stages), run, trained)
    assert run.stage("t2i").result() is None


def test_taking_over_twice_changes_nothing(tmp_path: Path, trained: RunDirectory) -> None:
    config = tiny_config()
    run = claimed(config, tmp_path / "branch")
    take_over(config, list(config.stages), run, trained)
    assert take_over(config, list(config.stages), run, trained) == {}


def test_another_autoencoder_is_refused(tmp_path: Path, trained: RunDirectory) -> None:
    config = tiny_config()
    run = claimed(config, tmp_path / "branch")
    run.autoencoder.write_bytes(b"another")
    with pytest.raises(TrainError, match="is another autoencoder than"):
        take_over(config, list(config.stages), run, trained)
