"""Scores that look at the kept frames of a clip, one row for each clip and scorer."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from data_engine.scores.brisque import Brisque
from data_engine.scores.text_area import TextArea

FRAME_SCORERS = {"brisque": Brisque.backend, "text_area": TextArea.backend}
"""Every scorer of this step and the backend that makes it: together they say whether a score is still valid."""

# Text detection costs most of this step; overlays stay for long, so one frame a second of clip is plenty.
_MAX_TEXT_FRAMES = 2


@dataclass(frozen=True, slots=True)
class FrameScore:
    """What one scorer said of one clip: None if it has no answer. `texts` holds what was read."""

    value: float | None
    texts: tuple[str, ...] = field(default=())


class FrameScorers:
    """Loads the models once; afterwards scores clips."""

    def __init__(self) -> None:
        cv2.setNumThreads(1)
        self._brisque = Brisque()
        self._text_area = TextArea()

    def score(self, scorer: str, images: Sequence[NDArray[np.uint8]]) -> FrameScore:
        """One score of a clip from its HxWx3 RGB frames, first to last."""
        if scorer == "brisque":
            middle = images[len(images) // 2]
            return FrameScore(self._brisque.score(middle))
        assert scorer == "text_area", f"{scorer} is not one of {sorted(FRAME_SCORERS)}"
        found = [self._text_area.read(image) for image in _spread(images, _MAX_TEXT_FRAMES)]
        texts = dict.fromkeys(text for frame in found for text in frame.texts)
        return FrameScore(max(frame.area_fraction for frame in found), tuple(texts))


def _spread(images: Sequence[NDArray[np.uint8]], count: int) -> list[NDArray[np.uint8]]:
    """At most `count` images, the middle one first in importance, then the ends."""
    if len(images) <= count:
        return list(images)
    return [images[round(i * (len(images) - 1) / (count - 1))] for i in range(count)]
