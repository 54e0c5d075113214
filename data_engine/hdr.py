"""Pictures of high dynamic range as pictures for an ordinary screen: BT.709 colours, 8 bits.

The light comes from the curves of ITU-R BT.2100, for HLG on a screen of 1000 cd/m2. Highlights are compressed with the knee
of ITU-R BT.2390, so that a white wall (203 cd/m2, ITU-R BT.2408) is bright and the sun is not cut off.
"""

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

PQ, HLG = 16, 18
"""Transfer characteristics of ITU-T H.273, as a decoded frame names them."""

BACKEND = "bt2390-v1"

_PEAK, _WHITE = 1000.0, 203.0
_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_LUMA = np.array([[0.2627, 0.6780, 0.0593]], np.float32)
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_NUM_GAINS = 4096

Curve = NDArray[np.float32]
"""Values for all codes of 16 bits."""


def is_hdr(transfer: int) -> bool:
    """Whether pictures with these transfer characteristics have to be tone-mapped."""
    return transfer in _CURVES


def tone_mapped(image: NDArray[np.uint16], transfer: int) -> NDArray[np.uint8]:
    """HxWx3 RGB of 16 bits, BT.2020 colours and this transfer, as HxWx3 RGB of 8 bits for an ordinary screen."""
    light = _CURVES[transfer]()[image]
    if transfer == HLG:
        luma = cv2.transform(light, _LUMA)
        light = light * (_PEAK * np.maximum(luma, 1e-6) ** 0.2)[..., None]
    brightest = np.minimum(light.max(axis=2), _PEAK)
    # By the square root, where the eye sees steps.
    place = (np.sqrt(brightest / _PEAK) * (_NUM_GAINS - 1)).astype(np.int32)
    shown = cv2.transform(light * _gains()[place][..., None], _TO_BT709)
    screen = np.clip(shown / _WHITE, 0, 1) ** np.float32(1 / 2.4)
    return (screen * 255 + 0.5).astype(np.uint8)


@lru_cache(maxsize=1)
def _pq_light() -> Curve:
    """Light in cd/m2."""
    return _light_of_pq(np.linspace(0, 1, 65536)).astype(np.float32)


@lru_cache(maxsize=1)
def _hlg_scene() -> Curve:
    """Light of the scene, 0 to 1."""
    code = np.linspace(0, 1, 65536)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)


_CURVES: dict[int, Callable[[], Curve]] = {PQ: _pq_light, HLG: _hlg_scene}


@lru_cache(maxsize=1)
def _gains() -> NDArray[np.float32]:
    """What the knee multiplies light with, by the square root of the brightest channel from 0 to the peak."""
    light = np.linspace(1e-3, 1, _NUM_GAINS) ** 2 * _PEAK
    peak = _pq_of_light(np.array(_PEAK))
    code = _pq_of_light(light) / peak
    most = _pq_of_light(np.array(_WHITE)) / peak
    knee = 1.5 * most - 0.5
    t = np.clip((code - knee) / (1 - knee), 0, 1)
    bent = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * most
    )
    return (_light_of_pq(np.where(code < knee, code, bent) * peak) / light).astype(np.float32)


def _light_of_pq(code: NDArray[np.float64]) -> NDArray[np.float64]:
    powered = code ** (1 / _M2)
    return 10_000 * (np.maximum(powered - _C1, 0) / (_C2 - _C3 * powered)) ** (1 / _M1)


def _pq_of_light(light: NDArray[np.float64]) -> NDArray[np.float64]:
    powered = (light / 10_000) ** _M1
    return ((_C1 + _C2 * powered) / (1 + _C3 * powered)) ** _M2
