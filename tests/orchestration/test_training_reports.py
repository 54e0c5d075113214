"""What a stage shows while it trains and after it, from the files that it writes."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from PIL import Image

from orchestration.checks import judge_losses
from orchestration.data_versions import latents_version, stage_version
from orchestration.metadata import MAX_METADATA_BYTES, fitted, stored_bytes
from orchestration.training_reports import (
    Point,
    newest_previews,
    observe_training,
    running_metadata,
    stage_metadata,
)
from orchestration.work import WorkProgress
from training.config import TrainConfig
from training.recipes import demo_tiny
from training.run_directory import RunDirectory, StageResult
from training.telemetry import StepMetrics, draw_loss_curve, read_metrics

STAGE = "t2v"
RESULT = StageResult(
    stage=STAGE,
    task="t2v",
    num_steps=40,
    first_loss=1.5,
    last_loss=0.5,
    seconds=10.0,
    checkpoint=f"{STAGE}/checkpoints/step-000040",
    playback_fps=8.0,
    original_height_px=360,
    original_width_px=640,
    num_clips=12,
    num_clips_too_short=0,
    num_clips_without_caption=0,
)


def metrics(step: int) -> StepMetrics:
    return StepMetrics(
        step=step,
        loss=2.0 / step,
        learning_rate=1e-3,
        grad_norm=0.5,
        tokens_per_s=100.0,
        tokens_processed_per_s=50.0,
        tflops_per_s=0.5,
        mfu=0.25,
        data_wait_s=0.01,
        data_wait_share=0.1,
        num_skipped=0,
        peak_memory_mb=100.0,
        step_s=0.1,
        loss_by_timestep=(1.0, None, 0.5, 0.25),
    )


def write_run(
    folder: Path,
    config: TrainConfig | None = None,
    weights: str = "a" * 64,
    result: StageResult = RESULT,
) -> Path:
    """What a stage of forty steps leaves, without the weights themselves."""
    run = RunDirectory(folder)
    run.claim(config or demo_tiny(), "shards")
    stage = run.stage(STAGE)
    stage.path.mkdir(exist_ok=True)
    lines = [asdict(metrics(step)) for step in range(1, 41)]
    stage.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    checkpoint = folder / result.checkpoint
    checkpoint.mkdir(parents=True)
    files = {"average.safetensors": {"sha256": weights, "parts": {}}, "weights.safetensors": {}}
    (checkpoint / "state.json").write_text(json.dumps({"seconds": 1.0, "files": files}))
    stage.finish(result)
    return folder


def write_preview(run: Path, name: str, size_px: tuple[int, int] = (64, 36)) -> Path:
    path = RunDirectory(run).stage(STAGE).previews / name
    path.parent.mkdir(exist_ok=True)
    Image.effect_noise((64, 36), 90).resize(size_px).save(path)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "run")
    stage = RunDirectory(folder).stage(STAGE)
    draw_loss_curve(read_metrics(stage.metrics), stage.loss_curve)
    return folder


def test_a_running_stage_shows_its_losses_by_time_and_its_speed(run: Path) -> None:
    assert running_metadata(run, STAGE, 30, 0.1) == {
        "running_loss": 0.1,
        "step": 30,
        "running_learning_rate": 1e-3,
        "running_grad_norm": 0.5,
        "running_tokens_per_s": 100.0,
        "running_mfu": 0.25,
        "running_data_wait_share": 0.1,
        "running_loss_t0.00-0.25": 1.0,
        "running_loss_t0.50-0.75": 0.5,
        "running_loss_t0.75-1.00": 0.25,
    }


def observations(run: Path, num_steps: int, folder: Path) -> list[Mapping[str, Any]]:
    """What an asset that trains for so many steps in a moment records."""
    with dg.DagsterInstance.local_temp(str(folder)) as instance:

        @dg.asset
        def stage(context: dg.AssetExecutionContext) -> None:
            observe = observe_training(context, run)
            for step in range(1, num_steps + 1):
                observe(WorkProgress(STAGE, step, num_steps, "steps", 1.0 / step))

        dg.materialize([stage], instance=instance)
        records = instance.fetch_observations(dg.AssetKey("stage"), limit=1000).records
    return [r.asset_observation.metadata for r in records if r.asset_observation][::-1]


def points(steps: range, num_steps: int, step_s: float) -> list[int]:
    """The steps of a live curve of a stage whose steps take so long."""
    last, chosen = None, list[int]()
    for step in steps:
        now = Point(step, step * step_s)
        if now.is_due_after(last, num_steps):
            last = now
            chosen.append(step)
    return chosen


def test_a_long_stage_has_hundreds_of_points() -> None:
    found = points(range(1, 100_001), 100_000, step_s=1.0)
    assert found[:3] == [1, 501, 1001]
    assert len(found) == 200


def test_quick_steps_have_a_point_every_two_seconds() -> None:
    assert points(range(1, 81), 1000, step_s=0.125) == [1, 17, 33, 49, 65]


def test_a_stage_that_went_back_to_its_checkpoint_shows_that_at_once() -> None:
    last = Point(step=90_000, time_s=0.0)
    assert Point(step=80_001, time_s=5.0).is_due_after(last, 100_000)
    assert not Point(step=90_001, time_s=5.0).is_due_after(last, 100_000)


def test_a_stage_of_a_moment_has_few_points_and_each_preview_once(
    run: Path, tmp_path: Path
) -> None:
    write_preview(run, "step-000020-0.png")
    found = observations(run, 100, tmp_path)
    assert [int(m["step"].value) for m in found] == [1, 100]
    assert ["report" in m for m in found] == [True, False]
    assert "![step-000020-0](data:image/jpeg;base64," in found[0]["report"].value


def test_the_newest_previews_are_those_of_the_last_step(run: Path) -> None:
    assert newest_previews(run, STAGE) == []
    for name in ("step-000020-0", "step-000040-0", "step-000040-10", "step-000040-2"):
        write_preview(run, f"{name}.png")
    assert [p.stem for p in newest_previews(run, STAGE)] == ["step-000040-0", "step-000040-2"]


def test_a_stage_shows_curve_previews_and_speed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STIV_TENSORBOARD_URL", "http://127.0.0.1:6006/")
    for place in range(3):
        write_preview(run, f"step-000040-{place}.png", (2000, 1500))
    shown = fitted(stage_metadata(run, STAGE))
    report = shown["report"].md_str
    assert report.count("![loss curve](data:image/png;base64,") == 1
    assert report.count("![step-000040-") == 2
    assert "| 0.25-0.50 | none |" in report
    assert (shown["mfu"], shown["tokens_per_s"], shown["train_seconds"]) == (0.25, 100.0, 10.0)
    assert shown["clips_per_s"] == 40 * demo_tiny().stages[STAGE].batch_size / 10
    assert shown["curves"].url == "http://127.0.0.1:6006/?runFilter=%5Erun%2Ft2v%2F#timeseries"
    assert stored_bytes(shown) < MAX_METADATA_BYTES


def test_a_stage_that_was_taken_over_has_no_steps(run: Path) -> None:
    stage = RunDirectory(run).stage(STAGE)
    stage.metrics.unlink()
    stage.loss_curve.unlink()
    shown = stage_metadata(run, STAGE)
    assert shown["last_loss"] == 0.5
    assert "tokens_per_s" not in shown


def test_the_same_stage_again_is_the_same_version(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a")
    again = write_run(tmp_path / "b", result=replace(RESULT, seconds=99.0))
    assert stage_version(first, STAGE) == stage_version(again, STAGE)


def test_other_settings_or_weights_are_another_version(tmp_path: Path) -> None:
    plain = demo_tiny()
    stage = plain.stages[STAGE]
    longer = plain.model_copy(
        update={"stages": {**plain.stages, STAGE: stage.model_copy(update={"num_steps": 41})}}
    )
    guided = plain.model_copy(
        update={"guidance": plain.guidance.model_copy(update={"text_scale": 3.25})}
    )
    versions = {
        stage_version(write_run(tmp_path / "plain"), STAGE),
        stage_version(write_run(tmp_path / "longer", longer), STAGE),
        stage_version(write_run(tmp_path / "guided", guided), STAGE),
        stage_version(write_run(tmp_path / "weights", weights="b" * 64), STAGE),
    }
    assert len(versions) == 4


def test_settings_of_a_later_stage_change_nothing(tmp_path: Path) -> None:
    plain = demo_tiny()
    last = plain.stages["stiv"].model_copy(update={"num_steps": 41})
    other = plain.model_copy(update={"stages": {**plain.stages, "stiv": last}})
    found = stage_version(write_run(tmp_path / "other", other), STAGE)
    assert found == stage_version(write_run(tmp_path / "plain"), STAGE)


def test_latents_have_the_version_of_their_manifests(tmp_path: Path) -> None:
    manifest = tmp_path / "latents.json"
    manifest.write_text("{}")
    before = latents_version([tmp_path])
    assert latents_version([tmp_path]) == before
    manifest.write_text('{"shards": []}')
    assert latents_version([tmp_path]) != before


@pytest.mark.parametrize(
    ("held_out", "is_asked", "said", "passes"),
    [
        ([1.0, 0.5], True, "and on held-out ones", True),
        ([0.5, 1.0], True, "and on held-out ones", False),
        ([], False, "alone: the stage has no `validation`", True),
        ([1.0], True, "alone: validation ran once", True),
    ],
)
def test_the_check_says_which_loss_it_judged(
    held_out: list[float], is_asked: bool, said: str, passes: bool
) -> None:
    found = judge_losses((2.0, 1.0), held_out, is_asked=is_asked)
    assert said in (found.description or "")
    assert found.passed == passes
