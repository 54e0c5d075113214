"""What every test may count on."""

import os
from collections.abc import Generator

import pytest

# Before any test module imports Ray, torch or tokenizers.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def local_ray() -> Generator[None]:
    """One Ray for all tests that need it: an own one, never somebody else's cluster."""
    from orchestration.ray_session import ray_session

    with ray_session(object_store_mb=200):
        yield
