"""Whole stages in one process, with the embedded encoders."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.builders import tiny_config, tiny_stage
from training.checkpoint import Snapshot, latest_step, write_json
from training.checkpoint_writer import CheckpointWriter
from training.config import OptimizerConfig, TrainConfig
from training.encoders import BatchEncoder
from training.errors import TrainError
from training.loop import prepare_run, train_stage, warmed_up
from training.run_directory import RunDirectory
from training.step import TrainBatch
from training.step_lines import read_steps
from training.streaming.loader import LoadedBatch
from training.telemetry import StepMetrics, Telemetry, read_metrics


class KilledError(Exception):
    """Stands for a process that dies."""


def ten_steps() -> TrainConfig:
    stage = tiny_stage("stiv", num_steps=10, checkpoint_every_steps=5, mask_ratio=0.4)
    return tiny_config(stages={"stiv": stage})


def final_tensors(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = run / "stiv" / "checkpoints" / "step-000010"
    return {
        f"{path.stem}/{name}": tensor
        for path in sorted(checkpoint.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def test_ten_steps_equal_five_a_kill_and_the_rest_bit_for_bit(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ten_steps()
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for run in (whole, broken):
        prepare_run(config, [dataset], run)
    train_stage(config, "stiv", [dataset], whole)

    save = CheckpointWriter.save

    def save_first_only(writer: CheckpointWriter, snapshot: Snapshot) -> None:
        if snapshot.step > 5:
            raise KilledError
        save(writer, snapshot)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointWriter, "save", save_first_only)
        with pytest.raises(KilledError):
            train_stage(config, "stiv", [dataset], broken)
    assert RunDirectory(broken).stage("stiv").result() is None
    train_stage(config, "stiv", [dataset], broken)

    expected, found = final_tensors(whole), final_tensors(broken)
    assert expected.keys() == found.keys()
    assert {name.split("/")[0] for name in found} == {"weights", "average", "optimizer"}
    assert all(tensor.equal(found[name]) for name, tensor in expected.items())
    losses = [
        [(line["step"], line["loss"]) for line in read_metrics(run / "stiv" / "metrics.jsonl")]
        for run in (whole, broken)
    ]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == list(range(1, 11))


def test_on_slow_storage_two_intervals_are_unsaved_at_most(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = tiny_stage("t2i", num_steps=8, checkpoint_every_steps=2)
    config = tiny_config(stages={"t2i": stage})
    checkpoints = RunDirectory(tmp_path).stage("t2i").checkpoints
    write, log = write_json, Telemetry.log
    unsaved: list[int] = []

    def write_slowly(path: Path, content: Mapping[str, Any]) -> None:
        time.sleep(0.3)
        write(path, content)

    def log_and_look(telemetry: Telemetry, metrics: StepMetrics) -> None:
        unsaved.append(metrics.step - (latest_step(checkpoints) or 0))
        log(telemetry, metrics)

    monkeypatch.setattr("training.checkpoint_writer.write_json", write_slowly)
    monkeypatch.setattr(Telemetry, "log", log_and_look)
    prepare_run(config, [dataset], tmp_path)
    train_stage(config, "t2i", [dataset], tmp_path)
    assert 2 < max(unsaved) <= 4


def test_a_chain_hands_its_averaged_weights_on(dataset: Path, tmp_path: Path) -> None:
    config = tiny_config()
    prepare_run(config, [dataset], tmp_path)
    with pytest.raises(TrainError, match="train t2i first"):
        train_stage(config, "t2v", [dataset], tmp_path)
    train_stage(config, "t2i", [dataset], tmp_path)
    frozen = config.model_copy(
        update={"stages": {**config.stages, "t2v": tiny_stage("t2v", num_steps=1)}}
    )
    train_stage(frozen, "t2v", [dataset], tmp_path)

    run = RunDirectory(tmp_path)
    image, video = run.stage("t2i").result(), run.stage("t2v").result()
    assert image is not None
    assert video is not None
    assert (image.num_clips, video.num_clips, video.num_clips_too_short) == (6, 5, 1)
    assert video.playback_fps == 12.0
    before = load_file(tmp_path / image.checkpoint / "average.safetensors")
    after = load_file(tmp_path / video.checkpoint / "average.safetensors")
    # One step moves a weight a little; another start would differ by the scale of its initialisation.
    for name in ("blocks.0.spatial_attention.output.weight", "mask_token_D"):
        assert (before[name] - after[name]).abs().max() < 5e-3


def test_a_run_directory_refuses_another_config(dataset: Path, tmp_path: Path) -> None:
    config = tiny_config()
    prepare_run(config, [dataset], tmp_path)
    prepare_run(config.model_copy(update={"num_workers": 2}), [dataset], tmp_path)
    with pytest.raises(TrainError, match="seed is 0 in the run and 7 now"):
        prepare_run(config.model_copy(update={"seed": 7}), [dataset], tmp_path)


def test_a_run_directory_refuses_other_shards(dataset: Path, tmp_path: Path) -> None:
    prepare_run(tiny_config(), [dataset], tmp_path)
    with pytest.raises(TrainError, match="shards is"):
        prepare_run(tiny_config(), [dataset, dataset], tmp_path)


def test_losses_that_are_not_finite_stop_the_stage(dataset: Path, tmp_path: Path) -> None:
    optimizer = OptimizerConfig(learning_rate=1e30, warmup_steps=0)
    stage = tiny_stage("t2v", optimizer=optimizer, num_steps=9, max_skipped_steps=2)
    config = tiny_config(stages={"t2v": stage})
    prepare_run(config, [dataset], tmp_path)
    with pytest.raises(TrainError, match=r"step 4: .* must be finite.* 3 steps in a row"):
        train_stage(config, "t2v", [dataset], tmp_path)
    skipped = read_steps(RunDirectory(tmp_path).stage("t2v").skipped_steps)
    assert [line["step"] for line in skipped] == [2, 3, 4]
    # The weights of step 1 are no use to anyone.
    assert not RunDirectory(tmp_path).stage("t2v").has_checkpoint


def test_a_step_that_is_not_finite_changes_nothing_and_names_its_clips(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third batch is damaged; the checkpoint due after it comes one step later."""
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=2, clip_deviations=3.0)
    stage = tiny_stage("t2v", num_steps=5, checkpoint_every_steps=3, optimizer=optimizer)
    config = tiny_config(stages={"t2v": stage})
    encode = BatchEncoder.encode

    def encode_with_damage(encoder: BatchEncoder, loaded: LoadedBatch) -> TrainBatch:
        batch = encode(encoder, loaded)
        if loaded.step == 2:
            batch.latents_BCFHW[0, 0, 0, 0, 0] = float("nan")
        return batch

    monkeypatch.setattr(BatchEncoder, "encode", encode_with_damage)
    prepare_run(config, [dataset], tmp_path)
    train_stage(config, "t2v", [dataset], tmp_path)

    directory = RunDirectory(tmp_path).stage("t2v")
    (line,) = read_steps(directory.skipped_steps)
    assert (line["step"], line["loss"], len(line["clip_ids"])) == (3, "nan", 2)
    assert [metrics["step"] for metrics in read_metrics(directory.metrics)] == [1, 2, 4, 5]
    saved = sorted(path.name for path in directory.checkpoints.glob("step-*"))
    assert saved == ["step-000004", "step-000005"]
    tensors = load_file(directory.checkpoints / saved[-1] / "optimizer.safetensors")
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert tensors["adaptive_clip/state"][0] == pytest.approx(1 - 0.99**4)


def test_the_learning_rate_rises_linearly_and_stays() -> None:
    optimizer = OptimizerConfig(learning_rate=1.0, warmup_steps=4)
    assert [warmed_up(optimizer, step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warmed_up(OptimizerConfig(learning_rate=1.0, warmup_steps=0), 0) == 1.0
