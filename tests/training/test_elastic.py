"""A range of workers: what it may be, and that it is no part of what a run computes."""

import pytest

from tests.training.builders import tiny_config, tiny_stage
from training.config import TrainConfig


def config_of(num_steps: int, **changes: object) -> TrainConfig:
    stage = tiny_stage("stiv", num_steps=num_steps, batch_size=4, checkpoint_every_steps=5)
    return tiny_config(stages={"stiv": stage}, **changes)


def test_a_range_of_workers_is_checked() -> None:
    with pytest.raises(ValueError, match="min_workers 3 is above num_workers 2"):
        config_of(4, num_workers=2, min_workers=3)
    with pytest.raises(ValueError, match="does not form groups"):
        config_of(4, num_workers=2, min_workers=1, sharding="hybrid", shard_group_size=2)


def test_the_number_of_workers_is_no_part_of_what_a_run_computes() -> None:
    elastic = config_of(4, num_workers=2, min_workers=1)
    assert elastic.identity() == config_of(4, num_workers=1).identity()
