"""The check of drift as Dagster runs it: after a batch, with others before it and beside it."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from data_engine.drift import deciles
from data_engine.schema import Score
from orchestration import checks
from orchestration.partitions import source_batches
from tests.factories import clip_record
from tests.orchestration.builders import new_instance


def shown(mean: float, seed: int) -> dict[str, Any]:
    """The deciles of a batch of a hundred clips whose motion is around `mean`."""
    values = np.random.default_rng(seed).normal(mean, 1.0, 100)
    clips = [clip_record(scores={"motion": Score(value=float(v), backend="flow")}) for v in values]
    return {name: asdict(d) for name, d in deciles(clips).items()}


class Batches:
    """A Dagster in which batches with chosen scores are materialised, and checked by the real check."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance

    def add(self, batch: str, scores: Mapping[str, Any]) -> None:
        """As another run does that goes on beside: the check does not follow."""
        self.instance.add_dynamic_partitions(str(source_batches.name), [batch])
        event = dg.AssetMaterialization(
            "scored_clips", partition=batch, metadata={"score_deciles": dict(scores)}
        )
        self.instance.report_runless_asset_event(event)

    def run(self, batch: str, scores: Mapping[str, Any]) -> dg.AssetCheckEvaluation:
        """Materialise a batch and judge it in one run."""
        self.instance.add_dynamic_partitions(str(source_batches.name), [batch])

        @dg.asset(partitions_def=source_batches)
        def scored_clips() -> dg.MaterializeResult[Any]:
            return dg.MaterializeResult(metadata={"score_deciles": dict(scores)})

        check = checks.scores_are_distributed_as_before
        result = dg.materialize([scored_clips, check], instance=self.instance, partition_key=batch)
        (evaluation,) = result.get_asset_check_evaluations()
        return evaluation


@pytest.fixture
def batches(tmp_path: Path) -> Any:
    with new_instance(tmp_path / "dagster") as instance:
        yield Batches(instance)


def test_the_first_batch_has_nothing_before_it(batches: Batches) -> None:
    assert batches.run("a", shown(0, 0)).passed


def test_a_batch_like_the_one_before_passes(batches: Batches) -> None:
    batches.add("a", shown(0, 0))
    assert batches.run("b", shown(0, 1)).passed


def test_a_drifted_batch_is_found_and_found_again(batches: Batches) -> None:
    batches.add("a", shown(0, 0))
    for _ in range(2):
        found = batches.run("b", shown(2, 1))
        assert not found.passed
        assert (found.description or "").startswith("against a: motion by 0.")


def test_a_batch_that_others_came_after_is_judged_itself(batches: Batches) -> None:
    batches.add("a", shown(0, 0))
    batches.add("drifted", shown(2, 1))
    batches.add("c", shown(2, 2))
    assert not batches.run("a", shown(0, 0)).passed
    assert batches.run("drifted", shown(2, 1)).metadata["against"].value == "a"


def test_a_lone_batch_is_judged_against_itself_before(batches: Batches) -> None:
    batches.add("a", shown(0, 0))
    assert not batches.run("a", shown(2, 1)).passed
