"""Inception-v3 under FID and Inception Score, in its two trainings: that of 2015, whose numbers are published, and torchvision's.

Both give a row of 2048 features for each frame.
"""

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from training.errors import EvaluationError
from training.evaluation.versions import package
from training.evaluation.weights import best_device, digest_of_file, other_weights, read_state
from training.streaming.decode import FramesFHWC

_PX = 299
_FRAMES_AT_ONCE = 16
_EXPECTED_2015 = (
    "Inception of 2015-12-05 as torch-fidelity has it, weights-inception-2015-12-05-6726825d.pth"
)
_EXPECTED_TORCHVISION = "torchvision's inception_v3"


class Inception2015Features:
    """FID and Inception Score as published: the weights and the resizing of TensorFlow, by torch-fidelity.

    Raises:
        EvaluationError: torch-fidelity is not installed, or the file is missing or holds other weights.
    """

    metric = "fid"
    score_name = "inception_score"

    def __init__(self, path: Path) -> None:
        if importlib.util.find_spec("torch_fidelity") is None:
            raise EvaluationError(
                "inception-2015 needs the package torch-fidelity: pip install '.[fid]'"
            )
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # The package unpickles the file that it is given: it gets the tensors alone, in memory.
        safe = io.BytesIO()
        torch.save(read_state(path, _EXPECTED_2015), safe)
        safe.seek(0)
        options: dict[str, Any] = {"feature_extractor_weights_path": safe}
        try:
            model = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], **options)
        except (RuntimeError, TypeError) as error:
            raise other_weights(path, _EXPECTED_2015, error) from error
        self._device = best_device()
        self._model: Any = model.to(self._device)
        self.backend = f"{package('torch-fidelity')}, inception-2015 {digest_of_file(path)}"

    def features(self, videos: Sequence[FramesFHWC]) -> NDArray[np.float32]:
        """One row of 2048 for each frame."""
        rows: list[Tensor] = []
        with torch.inference_mode():
            for frames in videos:
                for at in range(0, len(frames), _FRAMES_AT_ONCE):
                    part = np.ascontiguousarray(frames[at : at + _FRAMES_AT_ONCE])
                    pixels_FCHW = torch.from_numpy(part).permute(0, 3, 1, 2)
                    rows.append(self._model(pixels_FCHW.to(self._device))[0])
            return torch.cat(rows).cpu().numpy()

    def probabilities(self, features_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of the 1008 classes; without the bias of the last layer, as the original score has none."""
        with torch.inference_mode():
            features = torch.from_numpy(features_ND).to(self._device)
            return features.mm(self._model.fc.weight.T).softmax(dim=1).cpu().numpy()


class InceptionFeatures:
    """The weights of torchvision for ImageNet. Numbers differ from those of the training of 2015: metric and backend say so.

    Raises:
        EvaluationError: the file is missing, or holds no weights of Inception-v3.
    """

    metric = "fid_torchvision"
    score_name = "inception_score_torchvision"

    def __init__(self, path: Path) -> None:
        from torchvision.models import inception_v3

        self._device = best_device()
        model = inception_v3(weights=None, init_weights=False, transform_input=True)
        try:
            model.load_state_dict(read_state(path, _EXPECTED_TORCHVISION))
        except RuntimeError as error:
            raise other_weights(path, _EXPECTED_TORCHVISION, error) from error
        self._classify: nn.Module = model.fc
        model.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]  # typed as a linear layer
        self._model = model.eval().to(self._device)
        self._classify = self._classify.eval().to(self._device)
        self.backend = f"torchvision/inception_v3 {digest_of_file(path)}"

    def features(self, videos: Sequence[FramesFHWC]) -> NDArray[np.float32]:
        """One row of 2048 for each frame."""
        with torch.inference_mode():
            rows = [self._pooled(frame) for video in videos for frame in video]
            return torch.cat(rows).cpu().numpy()

    def probabilities(self, features_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of the 1000 classes, from `features`; what the Inception Score is made of."""
        with torch.inference_mode():
            logits_NK = self._classify(torch.from_numpy(features_ND).to(self._device))
            return logits_NK.softmax(dim=1).cpu().numpy()

    def _pooled(self, frame_HWC: NDArray[np.uint8]) -> Tensor:
        pixels = torch.from_numpy(frame_HWC).permute(2, 0, 1)[None].float()
        pixels = F.interpolate(pixels, size=(_PX, _PX), mode="bilinear", antialias=True) / 255
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        return self._model(((pixels - mean) / deviation).to(self._device))
