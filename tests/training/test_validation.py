"""Held-out clips: never trained on, the same loss from the same weights however the run is divided."""

from pathlib import Path
from typing import Any

import pytest

from tests.training.builders import tiny_config, tiny_stage, write_dataset
from tests.training.processes import run_workers
from tests.training.test_sharded_stage import train
from training.checkpoint import load_average
from training.config import TrainConfig
from training.encoders import BatchEncoder
from training.errors import DataError
from training.loop import prepare_run, train_stage
from training.run_directory import RunDirectory
from training.step import TrainBatch
from training.step_lines import read_steps
from training.streaming.buckets import is_held_out, plan_stage
from training.streaming.index import SampleIndex
from training.streaming.loader import LoadedBatch
from training.validation import plan_validation


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips, of which some are held out."""
    return write_dataset(tmp_path_factory.mktemp("data") / "twelve", list(range(9, 21)))


def config_of(num_workers: int = 1, every_steps: int = 2, **changes: Any) -> TrainConfig:
    validation = {"share": 0.5, "every_steps": every_steps, "batch_size": 2, "num_batches": 2}
    stage = tiny_stage("stiv", batch_size=2, mask_ratio=0.4, validation=validation)
    return tiny_config(stages={"stiv": stage}, num_workers=num_workers, **changes)


def lines_of(run: Path) -> tuple[list[dict[str, Any]], list[float]]:
    stage = RunDirectory(run).stage("stiv")
    return read_steps(stage.validation), [line["loss"] for line in read_steps(stage.metrics)]


def test_every_clip_is_either_trained_on_or_held_out(dataset: Path) -> None:
    index = SampleIndex.open([dataset])
    stage, data = config_of().stages["stiv"], config_of().data
    rows = [
        {
            int(row)
            for b in plan_stage(index, stage, data, (2, 2), held_out=held).buckets
            for mine in b.rows
            for row in mine
        }
        for held in (False, True)
    ]
    assert not rows[0] & rows[1]
    assert len(rows[0] | rows[1]) == 12
    # A clip stays where it is when the share grows.
    small, large = is_held_out(index, 0.3), is_held_out(index, 0.6)
    assert (large | ~small).all()


def test_the_loss_of_held_out_clips_does_not_touch_training(dataset: Path, tmp_path: Path) -> None:
    runs = {every: tmp_path / str(every) for every in (1, 2)}
    for every, run in runs.items():
        config = config_of(every_steps=every)
        prepare_run(config, [dataset], run)
        train_stage(config, "stiv", [dataset], run)
    (often, losses), (seldom, same_losses) = lines_of(runs[1]), lines_of(runs[2])
    assert losses == same_losses
    assert [line["step"] for line in often] == [1, 2, 3, 4]
    assert seldom == [often[1], often[3]]
    assert often[0]["loss"] != often[3]["loss"]
    assert set(filter(None, often[3]["by_task"])) >= {"both"}
    assert often[3]["by_task"]["text"] is None
    result = RunDirectory(runs[1]).stage("stiv").result()
    assert result is not None
    assert result.validation_loss == often[3]["loss"]


def test_what_falls_on_a_skipped_step_comes_after_the_next_good_one_and_the_end_at_once(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second batch and the last are damaged; checkpoints, one to keep and a validation are due every 2 steps."""
    stage = config_of().stages["stiv"]
    assert stage.validation is not None
    changes = {
        "num_steps": 6,
        "num_checkpoints_kept": 1,
        "keep_every_steps": 2,
        # Of the batch with number 0 alone, which is not damaged.
        "validation": stage.validation.model_copy(update={"num_batches": 1}),
    }
    config = tiny_config(stages={"stiv": stage.model_copy(update=changes)})
    encode = BatchEncoder.encode

    def encode_with_damage(encoder: BatchEncoder, loaded: LoadedBatch) -> TrainBatch:
        batch = encode(encoder, loaded)
        if loaded.step in (1, 5):
            batch.latents_BCFHW[0, 0, 0, 0, 0] = float("nan")
        return batch

    monkeypatch.setattr(BatchEncoder, "encode", encode_with_damage)
    prepare_run(config, [dataset], tmp_path)
    train_stage(config, "stiv", [dataset], tmp_path)

    directory = RunDirectory(tmp_path).stage("stiv")
    result = directory.result()
    assert result is not None
    assert [line["step"] for line in read_steps(directory.skipped_steps)] == [2, 6]
    assert [line["step"] for line in read_steps(directory.metrics)] == [1, 3, 4, 5]
    assert [line["step"] for line in read_steps(directory.validation)] == [3, 4, 6]
    kept = ["step-000003", "step-000004", "step-000006"]
    assert sorted(path.name for path in directory.checkpoints.glob("step-*")) == kept
    assert (tmp_path / result.checkpoint).name == kept[-1]
    average = load_average(tmp_path / result.checkpoint)
    assert all(tensor.isfinite().all() for tensor in average.values())


def test_sharded_weights_give_the_same_loss(dataset: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    config = config_of()
    prepare_run(config, [dataset], one)
    train_stage(config, "stiv", [dataset], one)
    config = config_of(2, sharding="full")
    prepare_run(config, [dataset], two)
    run_workers(train, 2, two, config.model_dump_json(), str(dataset), str(two))
    for found, expected in zip(lines_of(two)[0], lines_of(one)[0], strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-6)
    assert lines_of(two)[1] == pytest.approx(lines_of(one)[1], abs=1e-6)


def test_held_out_clips_have_the_size_of_their_stage(dataset: Path) -> None:
    stage = config_of().stages["stiv"].model_copy(update={"sizes_px": ((16, 16),)})
    config = tiny_config(stages={"stiv": stage})
    plan = plan_validation(SampleIndex.open([dataset]), config, "stiv")
    assert [(b.bucket.height_px, b.bucket.width_px) for b in plan.buckets] == [(16, 16)]


def test_too_few_held_out_clips_are_told_before_training(dataset: Path, tmp_path: Path) -> None:
    stage = config_of().stages["stiv"]
    assert stage.validation is not None
    more = stage.validation.model_copy(update={"batch_size": 64})
    stages = {"stiv": stage.model_copy(update={"validation": more})}
    with pytest.raises(DataError, match=r"validation of stage stiv: .* raise validation\.share"):
        prepare_run(tiny_config(stages=stages), [dataset], tmp_path)
