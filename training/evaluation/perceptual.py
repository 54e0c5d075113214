"""LPIPS (Zhang et al., arXiv 1801.03924) between frames that are meant to be equal."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.image.lpips import _LPIPS  # pyright: ignore[reportPrivateUsage]  # the public one unpickles

from training.errors import EvaluationError
from training.evaluation.versions import package
from training.evaluation.weights import digest_of_file, read_state
from training.streaming.decode import FramesFHWC

FRAMES_AT_ONCE = 16
EXPECTED = "AlexNet of torchvision, alexnet-owt-7be5be79.pth"


class Lpips:
    """With AlexNet, version 0.1: the linear weights ship in torchmetrics, those of the network are a file.

    The public interface of torchmetrics would download and unpickle that file.
    """

    def __init__(self, alexnet: Path) -> None:
        """`alexnet` holds the weights of torchvision, `alexnet-owt-7be5be79.pth`.

        Raises:
            EvaluationError: the file is missing or holds other weights.
        """
        found = read_state(alexnet, EXPECTED)
        self._network = _LPIPS(pretrained=True, net="alex", pnet_rand=True).eval()
        # slice2.3.weight there is features.3.weight of torchvision.
        names = {name: name.partition(".")[2] for name in self._network.net.state_dict()}
        try:
            self._network.net.load_state_dict(
                {ours: found[f"features.{theirs}"] for ours, theirs in names.items()}
            )
        except (KeyError, RuntimeError) as error:
            raise EvaluationError(
                f"{alexnet} does not hold the weights of {EXPECTED}: {error}"
            ) from error
        self.backend = f"{package('torchmetrics')}, AlexNet {digest_of_file(alexnet)}"

    def distances(self, made: FramesFHWC, real: FramesFHWC) -> NDArray[np.float32]:
        """Of each two frames; 0 for equal ones."""
        found = [
            self._network(
                _scaled(made[at : at + FRAMES_AT_ONCE]), _scaled(real[at : at + FRAMES_AT_ONCE])
            )
            for at in range(0, len(made), FRAMES_AT_ONCE)
        ]
        return torch.cat(found).flatten().numpy()


def _scaled(frames: FramesFHWC) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
