"""Table 4 with real training of a tiny network, without Ray."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.training.builders import tiny_config
from training.config import TrainConfig
from training.errors import EvaluationError
from training.evaluation.ablate import AblationPlan, ablate, row_config
from training.evaluation.features import PooledFrameFeatures
from training.evaluation.generation import Sampling
from training.evaluation.judging import Judges
from training.evaluation.tables import TABLES, flops_of
from training.loop import prepare_run, train_stage
from training.recipes import RECIPES
from training.run_directory import RunDirectory


def plan(table: str) -> AblationPlan:
    recipe = TABLES[table].recipe if table in TABLES else "demo_tiny"
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
    with pytest.raises(EvaluationError, match="demo_tiny has no stages for table 6b"):
        row_config(replace(plan("6b"), base=images_only()), "T2V-256")


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
    before = path.read_text()
    assert ablate(plan("4"), str(dataset), tmp_path, train, judges).read_text() == before
    assert len(trained) == 8
    with pytest.raises(EvaluationError, match="valid: 2, 3, 4, 6a"):
        ablate(plan("7"), str(dataset), tmp_path, train, judges)
