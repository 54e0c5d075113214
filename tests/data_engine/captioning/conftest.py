"""The classifier, loaded once for all tests."""

import pytest

from data_engine.scores.classifier import ImageNetClassifier


@pytest.fixture(scope="session")
def classifier() -> ImageNetClassifier:
    return ImageNetClassifier()
