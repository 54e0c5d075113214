import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training.builders import write_dataset


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Bitwise comparisons need a fixed summation order, and the machine may be shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def no_downloads() -> Iterator[None]:
    os.environ["HF_HUB_OFFLINE"] = "1"
    yield
    del os.environ["HF_HUB_OFFLINE"]


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips in two shards; the last two hold fewer frames than four at stride 2 need."""
    return write_dataset(tmp_path_factory.mktemp("data") / "squares", [30, 20, 24, 9, 5, 3])
