"""Photographs that ship inside packages, and models that are loaded once for all tests."""

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data as photographs

from data_engine.scores.classifier import ImageNetClassifier
from tests.photographs import sample_photo


@pytest.fixture(scope="session")
def photos() -> dict[str, NDArray[np.uint8]]:
    camera_HW = photographs.camera()
    return {
        "cat": photographs.cat(),
        "coffee": photographs.coffee(),
        "rocket": photographs.rocket(),
        "astronaut": photographs.astronaut(),
        "tripod": np.stack([camera_HW] * 3, axis=-1),
        "palace": sample_photo("china.jpg"),
        "flower": sample_photo("flower.jpg"),
    }


@pytest.fixture(scope="session")
def classifier() -> ImageNetClassifier:
    return ImageNetClassifier()
