"""Shots against films whose transitions are known. Those of other seeds than it was made with are in benchmarks."""

from pathlib import Path

import pytest

from data_engine.config import DecodeConfig, ProbeConfig, ShotConfig
from data_engine.decode import cut_source
from data_engine.probe import probe
from data_engine.sources.listing import local_source
from tests.data_engine.truth_set import (
    RATES,
    Film,
    Verdict,
    films_from_photographs,
    judge_clips,
)

WHOLE_SHOTS = ShotConfig(max_clip_s=1000.0)


def verdict_on(films: list[Film], folder: Path) -> Verdict:
    total = Verdict()
    for film in films:
        source = probe(local_source(film.write(folder)), ProbeConfig())
        cut = cut_source(source, WHOLE_SHOTS, DecodeConfig(frames_per_s=0.2), num_threads=1)
        total.add(judge_clips(film, cut.clips))
    return total


def check(verdict: Verdict) -> None:
    found = str(verdict)
    assert verdict.hard.f1 >= 0.98, found
    assert verdict.gradual.f1 >= 0.93, found
    assert verdict.num_foreign == 0, found
    # Safe margins must not eat the shots.
    assert verdict.num_in_clips >= 0.94 * verdict.num_in_shots, found


def test_a_film_is_the_same_each_time_and_of_another_seed_another() -> None:
    (first,), (again,) = films_from_photographs(1, seed=3), films_from_photographs(1, seed=3)
    assert first.transitions == again.transitions
    assert all((a() == b()).all() for a, b in zip(first.draw[::50], again.draw[::50], strict=True))
    assert films_from_photographs(1, seed=4)[0].transitions != first.transitions


@pytest.mark.slow
def test_transitions_of_a_small_set_are_found(tmp_path: Path) -> None:
    check(verdict_on(films_from_photographs(len(RATES), seed=0), tmp_path))


@pytest.mark.slow
def test_transitions_of_other_films_are_found(tmp_path: Path) -> None:
    check(verdict_on(films_from_photographs(2 * len(RATES), seed=1), tmp_path))
