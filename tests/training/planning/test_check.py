"""What a stage is asked before it starts on a GPU."""

import pytest

from tests.training.planning.steps import STAGE, config_of
from training.errors import TrainError
from training.planning.check import check_fits, layout_of


def test_what_cannot_fit_is_refused_and_what_may_just_fit_is_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = config_of()
    needed = check_fits(config, STAGE, 1, 2**40)
    assert not caplog.records
    check_fits(config, STAGE, 1, needed.total)
    assert "GiB of each GPU with 4 clips at once" in caplog.text
    said = r"stage classes needs .* which has .*stages\.classes\.micro_batch_size"
    with pytest.raises(TrainError, match=said) as caught:
        check_fits(config, STAGE, 1, needed.total - 1)
    assert "\n" not in str(caught.value)


def test_of_compiled_blocks_only_the_state_is_known() -> None:
    config = config_of(compile_blocks=True)
    state = check_fits(config, STAGE, 1, 2**40)
    assert (state.activations, state.weights) == (0, state.gradients)
    with pytest.raises(TrainError, match="the state alone"):
        check_fits(config, STAGE, 1, state.total - 1)


def test_a_config_says_how_it_lies_on_its_workers() -> None:
    groups = config_of(num_workers=4, sharding="hybrid", shard_group_size=2)
    assert (layout_of(groups, 4).num_shards, layout_of(groups, 4).shard_group_size) == (2, 2)
    whole = config_of(num_workers=4, sharding="full", average_on_cpu=True)
    assert (layout_of(whole, 2).num_shards, layout_of(whole, 2).average_on_cpu) == (2, True)
    assert layout_of(config_of(), 1).num_shards == 1
