"""What is tried again, and what would only fail again."""

import dagster as dg
import pytest

from data_engine.errors import BusyError
from orchestration.definitions import defs
from orchestration.ray_session import ClusterError
from orchestration.reporting import AGAIN, clear_failures
from training.errors import TrainError, WorkerError


@pytest.mark.parametrize(
    ("error", "is_retried"),
    [
        (WorkerError("a worker died"), True),
        (ClusterError("no answer"), True),
        (TrainError("another run"), False),
        (BusyError("another process"), False),
    ],
)
def test_what_was_lost_is_tried_again_and_a_mistake_is_not(
    error: Exception, is_retried: bool
) -> None:
    with pytest.raises(dg.Failure) as raised, clear_failures():
        raise error
    assert raised.value.description == str(error)
    assert raised.value.allow_retries == is_retried


def test_every_asset_that_works_for_long_is_tried_again() -> None:
    assets = [a for a in defs.assets or () if isinstance(a, dg.AssetsDefinition)]
    assert {a.key.to_user_string() for a in assets} >= {"scored_clips", "demo_tiny/t2i"}
    assert all(a.op.retry_policy == AGAIN for a in assets)  # pyright: ignore[reportAttributeAccessIssue]  # Dagster leaves it untyped
