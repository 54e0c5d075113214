"""The classifier, loaded once for all tests, and a chat server for each that asks for one."""

from collections.abc import Generator

import pytest

from data_engine.scores.classifier import ImageNetClassifier
from tests.data_engine.captioning.chat_server import ChatServer, running_chat_server


@pytest.fixture(scope="session")
def classifier() -> ImageNetClassifier:
    return ImageNetClassifier()


@pytest.fixture
def server() -> Generator[ChatServer]:
    with running_chat_server() as server:
        yield server
