"""Table 4 with real training of a tiny network, without Ray."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.training.builders import tiny_config
from training.config import TrainConfig
from training.errors import EvaluationError
from training.evaluation.ablate import (
    AblationPlan,
    ablate,
    row_config,
    row_configs,
    table_markdown,
    table_of,
)
from training.evaluation.features import PooledFrameFeatures
from training.evaluation.generation import Sampling
from training.evaluation.judging import Judges
from training.evaluation.results import EvaluationResult, Metric
from training.evaluation.tables import OPERATIONS, TABLES, flops_of
from training.loop import prepare_run, train_stage
from training.recipes import RECIPES
from training.run_directory import RunDirectory


def plan(table: str) -> AblationPlan:
    known = table in (*TABLES, *OPERATIONS.values())
    recipe = table_of(table).recipe if known else "demo_tiny"
    base = tiny_config() if recipe == "demo_tiny" else RECIPES[recipe]()
    return AblationPlan(table=table, base=base, budget_steps=2, num_samples=2, sampling=Sampling())


def colours(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    return np.stack([image.mean(axis=(0, 1)) for image in images]).astype(np.float32)


@pytest.mark.parametrize("table", TABLES)
def test_every_row_is_a_valid_run_with_numbers_of_the_paper(table: str) -> None:
    whole = TABLES[table]
    assert set(whole.rows) == set(whole.paper)
    for row in whole.rows:
        config = row_config(plan(table), row)
        if not whole.starts:
            assert {stage.num_steps for stage in config.stages.values()} == {2}
        tasks = {stage.task for stage in config.stages.values()}
        assert ("stiv" in tasks) == ("ti2v" in whole.tasks and row != "T2V")
        assert len(whole.paper[row]) == len(whole.columns)


@pytest.mark.parametrize(("table", "steps"), [("6b", 200), ("6c", 200)])
def test_rows_of_other_starts_compute_equally_much(table: str, steps: int) -> None:
    """As in tables 13 and 14, to the rounding of steps; the paper's own totals differ by as much."""
    asked = replace(plan(table), budget_steps=steps)
    rows = {row: row_config(asked, row) for row in TABLES[table].rows}
    first, *others = (sum(flops_of(config).values()) for config in rows.values())
    assert others == pytest.approx([first] * len(others), rel=0.01)
    for config in rows.values():
        last = list(config.stages)[-1]
        assert set(config.needed_for(last)) == set(config.stages)


def test_rows_of_other_starts_are_those_of_the_paper() -> None:
    both = row_config(plan("6b"), "Both")
    assert both.starts_of("t2v_96") == ("t2i_96", "t2v_64")
    assert row_config(plan("6b"), "Scratch").starts_of("t2v_96") == ()
    assert row_config(plan("6b"), "T2V-256").starts_of("t2v_96") == ("t2v_64",)
    doubled, same = (
        row_config(plan("6c"), row)
        for row in ("T2V 2x stride, interpolation", "T2V, RoPE extrapolation")
    )
    assert [c.data_of("t2v_64_8").sampling_stride for c in (doubled, same)] == [6, 3]
    assert (doubled.model.rotary_grid is None, same.model.rotary_grid is None) == (False, True)


def test_a_base_without_the_stages_is_refused() -> None:
    with pytest.raises(
        EvaluationError, match="demo_tiny does not fit table 6b: row 'T2V-256' needs more stages"
    ):
        row_config(replace(plan("6b"), base=images_only()), "T2V-256")


@pytest.mark.parametrize(
    ("table", "base", "message"),
    [
        (
            "3",
            "t2v_tiny_64_16",
            "t2v_tiny_64_16 does not fit table 3: no stage of it is trained for ti2v",
        ),
        ("3", "v2v_tiny_64", "no stage of it is trained for ti2v"),
        ("6b", "demo_tiny", "table 6b: row 'T2V-256': its stages t2i, t2v, t2v name one twice"),
        (
            "14",
            "demo_tiny",
            "table 14: row .* name one twice; take a recipe such as t2v_tiny_64_16",
        ),
        ("2", "class_to_video_tiny_48", "no stage of it is trained for t2i; .* such as demo_tiny"),
    ],
)
def test_no_row_is_trained_where_another_cannot_be(
    table: str, base: str, message: str, tmp_path: Path
) -> None:
    """One line, and before anything is trained."""

    def train(_config: TrainConfig, _path: Path) -> None:
        raise AssertionError

    config = RECIPES[base]()
    if table == "3" and base == "v2v_tiny_64":
        # A stage that is given four frames animates no image.
        stages = {
            n: s for n, s in config.stages.items() if s.task != "stiv" or "first" not in s.given
        }
        stages["v2v"] = stages["v2v"].model_copy(update={"init_from": "t2v_64"})
        config = config.model_copy(update={"stages": stages})
    asked = replace(plan(table), base=config)
    with pytest.raises(EvaluationError, match=message) as refused:
        ablate(asked, "nowhere", tmp_path, train, Judges(features=()))
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_tables_of_operations_are_those_whose_stages_they_count(tmp_path: Path) -> None:
    """The rows of table 13 and their operations, by what was trained elsewhere."""
    assert table_of("13") is TABLES["6b"]
    assert table_of("14") is TABLES["6c"]
    asked = replace(plan("13"), budget_steps=200)
    text = table_markdown(asked, table_of("13"), row_configs(asked), {("Both", "t2v"): result()})
    lines = text.splitlines()
    assert lines[0] == "# Table 13, the rows of table 6b, at small scale"
    head = "| Row | Stages | 1 | 2 | 3 | 4 | total | paper: 1 | paper: 2 | paper: 3 | paper: 4 | paper: total |"
    start = lines.index(head)
    rows = {
        cells[1]: cells[2:-1]
        for cells in (re.split(r" ?\| ?", line) for line in lines[start + 2 : start + 6])
    }
    assert rows["Both"][0] == "t2i_64, t2i_96, t2v_64, t2v_96"
    assert rows["Both"][-5:] == ["1.11e21", "0.843e21", "2.05e21", "1.98e21", "5.98e21"]
    assert rows["Scratch"][-5:] == ["5.93e21", "/", "/", "/", "5.93e21"]
    ours = list(map(float, rows["Both"][1:6]))
    assert sum(ours[:4]) == pytest.approx(ours[4], rel=0.01)
    shares = [stage / ours[4] for stage in ours[:4]]
    assert shares == pytest.approx([s / 5.98 for s in (1.11, 0.843, 2.05, 1.98)], abs=0.01)


def result() -> EvaluationResult:
    metric = Metric(
        name="fvd_i3d", value=1.0, backend="i3d", num_samples=2, num_references=2, better="lower"
    )
    return EvaluationResult(
        suite="",
        source="",
        with_text=True,
        weights_sha256="",
        dataset_fingerprint="",
        was_trained_on=True,
        held_out_share=None,
        num_samples=2,
        num_references=2,
        num_frames=4,
        sampling_stride=2,
        fps=12.0,
        reference_fps=(12.0, 12.0, 12.0),
        height_px=32,
        width_px=48,
        seed=0,
        num_sampling_steps=2,
        solver="euler",
        guidance="joint 7.5",
        image_guidance_scale=None,
        metrics=(metric,),
        skipped=(),
    )


def images_only() -> TrainConfig:
    values = RECIPES["demo_tiny"]().model_dump()
    values["stages"] = {"t2i": values["stages"]["t2i"]}
    return TrainConfig.model_validate(values)


def test_embedded_encoders_leave_out_the_rows_of_encoders() -> None:
    table = TABLES["2"]
    run = list(table.rows_for(RECIPES["demo_tiny"]()))
    assert [row for row in table.rows if row not in run] == ["+ Internal VAE", "+ Internal CLIP"]
    assert list(table.rows_for(RECIPES["stiv_xl_256"]())) == list(table.rows)
    last = row_config(replace(plan("2"), base=RECIPES["stiv_xl_256"]()), "+ Internal CLIP")
    assert (last.model.latent_channels, last.encoders.text_encoder_model) == (8, "ViT-bigG-14")


def test_a_table_says_what_it_cannot_show() -> None:
    (captions,) = TABLES["2"].notes
    assert "one caption alone it is the row above" in captions
    (upsampled,) = TABLES["4"].notes
    assert "83.0, 73.1, 81.0" in upsampled


def test_the_rows_of_table_4_differ_in_image_dropout_alone() -> None:
    stiv, joint = (row_config(plan("4"), row) for row in ("STIV", "STIV-JIT"))
    assert [c.stages["stiv"].image_dropout_prob for c in (stiv, joint)] == [0.0, 0.08]
    assert joint.guidance.scheme == "joint"


@pytest.mark.slow
def test_a_table_is_trained_judged_and_written_and_not_done_twice(
    dataset: Path, tmp_path: Path
) -> None:
    trained: list[str] = []

    def train(config: TrainConfig, path: Path) -> None:
        run = RunDirectory(path)
        prepare_run(config, [dataset], path)
        for stage in config.stages:
            if run.stage(stage).result() is None:
                trained.append(f"{path.parent.name} {stage}")
                train_stage(config, stage, [dataset], path)

    judges = Judges(features=(PooledFrameFeatures(colours, "mean colour"),))
    path = ablate(plan("4"), str(dataset), tmp_path, train, judges)
    assert len(trained) == 2 + 3 + 3
    lines = path.read_text().splitlines()
    assert lines[2].startswith("| Row | t2v embedded_frechet_video | ti2v embedded_frechet_video |")
    t2v = next(line for line in lines if line.startswith("| T2V |"))
    assert t2v.split(" | ")[2:5] == ["/", "/", "/"]
    assert t2v.endswith("| 82.2 | 77.0 | 81.2 | / | / | / |")
    assert "2 clips of the shards that the runs were trained on" in path.read_text()
    assert "STIV-JIT with temporal upsampling after it" in path.read_text()
    before = path.read_text()
    assert ablate(plan("4"), str(dataset), tmp_path, train, judges).read_text() == before
    assert len(trained) == 8
    with pytest.raises(EvaluationError, match="valid: 2, 3, 4, 6a, 6b, 6c, 13, 14"):
        ablate(plan("7"), str(dataset), tmp_path, train, judges)
