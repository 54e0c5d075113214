"""Table 4 with real training of a tiny network, without Ray."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.training.builders import tiny_config
from training.config import TrainConfig
from training.errors import EvaluationError
from training.evaluation.ablate import TABLES, AblationPlan, ablate, row_config
from training.evaluation.evaluate import Judges
from training.evaluation.features import PooledFrameFeatures
from training.evaluation.generation import Sampling
from training.loop import prepare_run, train_stage
from training.run_directory import RunDirectory


def plan(table: str) -> AblationPlan:
    return AblationPlan(
        table=table, base=tiny_config(), budget_steps=2, num_samples=2, sampling=Sampling()
    )


def colours(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    return np.stack([image.mean(axis=(0, 1)) for image in images]).astype(np.float32)


@pytest.mark.parametrize("table", TABLES)
def test_every_row_is_a_valid_run_with_numbers_of_the_paper(table: str) -> None:
    whole = TABLES[table]
    assert set(whole.rows) == set(whole.paper)
    for row in whole.rows:
        config = row_config(plan(table), row)
        assert {stage.num_steps for stage in config.stages.values()} == {2}
        assert ("stiv" in config.stages) == (row not in whole.t2v_rows)
        assert len(whole.paper[row]) == len(whole.columns)


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
    with pytest.raises(EvaluationError, match="valid: 3, 4, 6a"):
        ablate(plan("7"), str(dataset), tmp_path, train, judges)
