import logging
import socket

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data_engine.scores.text_area import (
    TextArea,
    covered_fraction,
    is_readable,
    largest_boxes,
)


def square(left: float, top: float, side: float) -> NDArray[np.float32]:
    corners = [(0, 0), (side, 0), (side, side), (0, side)]
    return np.array([(left + x, top + y) for x, y in corners], dtype=np.float32)


def title_card(*lines: str) -> NDArray[np.uint8]:
    card = np.full((360, 640, 3), 30, dtype=np.uint8)
    for row, line in enumerate(lines):
        place = (40, 100 + 90 * row)
        cv2.putText(card, line, place, cv2.FONT_HERSHEY_SIMPLEX, 1.3, (255, 220, 120), 3)
    return card


@pytest.fixture(scope="module")
def text_area() -> TextArea:
    """Made, and used once, with sockets out of order: models must come from the package."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("this test allows no network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        scorer = TextArea()
        scorer.read(title_card("warm up"))
    return scorer


@pytest.mark.parametrize(
    ("text", "score", "expected"),
    [("of", 0.7, True), ("of", 0.69, False), ("O", 0.99, False), ("--", 0.99, False)],
)
def test_a_box_counts_only_if_it_can_be_read(text: str, score: float, expected: bool) -> None:
    assert is_readable(text, score) is expected


def test_area_counts_overlaps_once_and_ends_at_the_border() -> None:
    boxes = [square(0, 0, 49), square(0, 0, 49), square(90, 90, 100)]
    assert covered_fraction(boxes, 100, 100) == pytest.approx((50 * 50 + 10 * 10) / 100**2)
    assert covered_fraction([], 100, 100) == 0


def test_the_largest_boxes_are_kept_in_order() -> None:
    boxes = np.stack([square(0, 0, side) for side in (3, 9, 1, 5)])
    kept = largest_boxes(boxes, max_boxes=2)
    assert [cv2.contourArea(box) for box in kept] == [81, 25]


def test_a_title_card_is_read(text_area: TextArea) -> None:
    found = text_area.read(title_card("THE BIG RABBIT", "a film by Nobody"))
    assert found.texts == ("THE BIG RABBIT", "a film by Nobody")
    assert 0.1 < found.area_fraction < 0.35


def test_colour_order_and_size_do_not_matter_to_reading(text_area: TextArea) -> None:
    card = cv2.resize(title_card("THE BIG RABBIT"), (1280, 720))
    found = text_area.read(np.asarray(card, dtype=np.uint8))
    assert found.texts == ("THE BIG RABBIT",)


@pytest.mark.parametrize("name", ["cat", "coffee", "rocket", "palace", "flower"])
def test_a_photograph_without_text_has_no_text_area(
    text_area: TextArea, photos: dict[str, NDArray[np.uint8]], name: str
) -> None:
    found = text_area.read(photos[name])
    assert found.texts == ()
    assert found.area_fraction == 0


def test_a_picture_without_text_is_not_logged(
    text_area: TextArea, capfd: pytest.CaptureFixture[str]
) -> None:
    text_area.read(np.zeros((360, 640, 3), dtype=np.uint8))
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("RapidOCR").level == logging.ERROR
