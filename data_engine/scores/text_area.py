"""How much of a picture is covered by text, and what it says (RapidOCR, PP-OCRv6 small).

A detected box counts only if it can be read: the detector alone takes round or striped things for text.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from data_engine.scores.weights import packaged_file

MIN_READING_SCORE = 0.7
"""Confidence of the reader, 0 to 1, from which a box counts."""
MIN_WORD_CHARACTERS = 2
"""Letters or digits that a box must hold."""
MAX_BOXES = 16
"""Only the largest boxes of a picture are read: dense credits would take seconds."""
EDGE_FRACTION = 0.2
"""Of the height: text whose centre is nearer to the upper or lower edge is at that edge."""
CORNER_FRACTION = 0.25
"""Of the width: text at an edge whose centre is nearer to a side is in a corner."""
DETECTION_LONG_SIDE_PX = 640
"""Larger pictures are scaled down for detection; reading uses the full picture."""

_DETECTOR_SHA256 = "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f"
_READER_SHA256 = "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884"

TextPlace = Literal["middle", "edge", "corner"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextFound:
    """`area_fraction` is the share of the picture inside boxes that could be read, 0 to 1.

    `edge_fraction` counts only boxes in the upper or lower fifth, as subtitles are; `corner_fraction` those in a
    corner, as logos are, which are not counted as edges. `texts` are their contents, from top to bottom.
    """

    area_fraction: float
    edge_fraction: float = 0.0
    corner_fraction: float = 0.0
    texts: tuple[str, ...]


def is_readable(text: str, score: float) -> bool:
    """Whether a reading is taken for real text."""
    num_word_characters = len(re.findall(r"[^\W_]", text))
    return score >= MIN_READING_SCORE and num_word_characters >= MIN_WORD_CHARACTERS


def covered_fraction(boxes: Iterable[NDArray[np.float32]], height_px: int, width_px: int) -> float:
    """The share of the picture inside at least one box; a box is 4 corners (x, y) in pixels."""
    mask = np.zeros((height_px, width_px), dtype=np.uint8)
    for corners_42 in boxes:
        cv2.fillConvexPoly(mask, np.rint(corners_42).astype(np.int32), 1)
    return float(np.count_nonzero(mask)) / mask.size


def place(corners_42: NDArray[np.float32], height_px: int, width_px: int) -> TextPlace:
    """Where the centre of a box lies."""
    x, y = corners_42.mean(axis=0) / (width_px, height_px)
    at_edge = min(y, 1 - y) < EDGE_FRACTION
    at_side = min(x, 1 - x) < CORNER_FRACTION
    if at_edge and at_side:
        return "corner"
    return "edge" if at_edge else "middle"


def largest_boxes(boxes_N42: NDArray[np.float32], max_boxes: int) -> NDArray[np.float32]:
    """At most `max_boxes` boxes, those of the largest area, in their original order."""
    areas = np.array([cv2.contourArea(corners_42) for corners_42 in boxes_N42])
    return boxes_N42[np.sort(np.argsort(-areas, kind="stable")[:max_boxes])]


class TextArea:
    """Finds and reads text, with one CPU thread and without network access."""

    backend = "embedded:rapidocr-ppocrv6-small"

    def __init__(self) -> None:
        detector = packaged_file("rapidocr", "models/PP-OCRv6_det_small.onnx", _DETECTOR_SHA256)
        reader = packaged_file("rapidocr", "models/PP-OCRv6_rec_small.onnx", _READER_SHA256)
        from rapidocr import RapidOCR
        from rapidocr.utils.process_img import get_rotate_crop_image

        self._crop = get_rotate_crop_image
        # The package downloads a model only where no path is given.
        self._engine: Any = RapidOCR(
            params={
                "Global.use_cls": False,
                # Its warnings say that a picture holds no text.
                "Global.log_level": "error",
                "Det.model_path": str(detector),
                "Det.limit_type": "max",
                "Det.limit_side_len": DETECTION_LONG_SIDE_PX,
                "Rec.model_path": str(reader),
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )

    def read(self, image_HWC: NDArray[np.uint8]) -> TextFound:
        """Find the text of an RGB picture."""
        image_bgr = np.ascontiguousarray(image_HWC[:, :, ::-1])
        found = self._engine(image_bgr, use_det=True, use_cls=False, use_rec=False)
        if found.boxes is None:
            return TextFound(area_fraction=0.0, texts=())
        boxes: list[NDArray[np.float32]] = []
        texts: list[str] = []
        for corners_42 in largest_boxes(np.asarray(found.boxes, dtype=np.float32), MAX_BOXES):
            text, score = self._read_box(image_bgr, corners_42)
            if is_readable(text, score):
                boxes.append(corners_42)
                texts.append(text)
        size = image_HWC.shape[:2]
        places = [place(corners_42, *size) for corners_42 in boxes]

        def fraction(where: TextPlace) -> float:
            chosen = (box for box, at in zip(boxes, places, strict=True) if at == where)
            return covered_fraction(chosen, *size)

        return TextFound(
            area_fraction=covered_fraction(boxes, *size),
            edge_fraction=fraction("edge"),
            corner_fraction=fraction("corner"),
            texts=tuple(texts),
        )

    def _read_box(
        self, image_bgr: NDArray[np.uint8], corners_42: NDArray[np.float32]
    ) -> tuple[str, float]:
        crop = self._crop(image_bgr, corners_42.copy())
        result = self._engine(crop, use_det=False, use_cls=False, use_rec=True)
        if not result.txts:
            return "", 0.0
        return str(result.txts[0]), float(result.scores[0])
