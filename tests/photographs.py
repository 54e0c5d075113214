"""Photographs out of scikit-learn, without its import, which takes six seconds in every test process."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def sample_photo(name: str) -> NDArray[np.uint8]:
    """`china.jpg` or `flower.jpg`, HxWx3 RGB."""
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.submodule_search_locations
    file = Path(spec.submodule_search_locations[0]) / "datasets" / "images" / name
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"), dtype=np.uint8)
