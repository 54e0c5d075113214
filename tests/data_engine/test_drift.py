"""Deciles of scores, and the distance of two samples, against scipy's test on all values."""

from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import ks_2samp

from data_engine.drift import Deciles, deciles, deciles_from, drift
from data_engine.schema import ClipRecord, Score
from tests.factories import clip_record


def sample(values: list[float], backend: str = "flow") -> list[ClipRecord]:
    return [clip_record(scores={"motion": Score(value=v, backend=backend)}) for v in values]


def draws(mean: float, count: int, seed: int) -> list[float]:
    return list(np.random.default_rng(seed).normal(mean, 1.0, count))


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_the_distance_is_close_to_that_of_all_values(shift: float) -> None:
    before, after = draws(0, 400, 0), draws(shift, 300, 1)
    (found,) = drift(deciles(sample(before)), deciles(sample(after)))
    assert found.distance == pytest.approx(ks_2samp(before, after)[0], abs=0.06)
    assert (found.distance > found.by_chance) == (shift > 0)


def test_the_same_clips_have_not_moved() -> None:
    known = deciles(sample(draws(0, 50, 0)))
    assert drift(known, known)[0].distance == 0


def test_a_constant_score_that_moved_is_seen() -> None:
    (found,) = drift(deciles(sample([1.0] * 20)), deciles(sample([2.0] * 20)))
    assert found.distance == 1


def test_few_clips_and_another_backend_say_nothing() -> None:
    assert deciles(sample([1.0] * 9)) == {}
    assert drift(deciles(sample([1.0] * 10)), deciles(sample([1.0] * 10, "other"))) == []


def test_deciles_survive_as_plain_values() -> None:
    known = deciles(sample(draws(0, 50, 0)))
    assert deciles_from({name: asdict(d) for name, d in known.items()}) == known
    assert known["motion"] == Deciles("flow", 50, known["motion"].values)
