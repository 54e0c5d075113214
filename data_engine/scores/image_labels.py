"""The probability of one label in a picture, by an image classifier that transformers runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_engine.errors import JobError
from data_engine.hub_models import (
    MAX_PICTURES,
    best_device,
    cannot_load,
    content_hash,
    model_folder,
)


class LabelScorer:
    """Any model that `AutoModelForImageClassification` loads. `model` is a folder, or a repository of the hub.

    A model for several labels at once, or with one label only, gives each label a probability of its own (sigmoid);
    any other shares the probability among its labels (softmax).

    Raises:
        JobError: the model is not there, is no image classifier, has no such label, or would need code of its own.
    """

    def __init__(self, model: str, revision: str | None, label: str) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageClassification
        from transformers.utils import logging as transformers_logging

        self._torch = torch
        self.backend = label_backend(model, revision, label)
        config = _model_config(model, revision)
        self._index = _index_of(config, model, label)
        self._is_shared = (
            config.num_labels > 1 and config.problem_type != "multi_label_classification"
        )
        # Bars of many workers would write over each other.
        transformers_logging.disable_progress_bar()
        where: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
        try:
            self._processor: Any = AutoImageProcessor.from_pretrained(model, **where)
            loaded: Any = AutoModelForImageClassification.from_pretrained(
                model, use_safetensors=True, dtype=torch.float32, **where
            )
        except (OSError, ValueError) as error:
            raise cannot_load(model, error) from error
        self._device = best_device()
        self._model = loaded.eval().to(self._device)

    def probabilities(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Of the label in each HxWx3 RGB picture, 0 to 1; as many at once as `MAX_PICTURES` says."""
        parts = [images[i : i + MAX_PICTURES] for i in range(0, len(images), MAX_PICTURES)]
        return np.concatenate([self._probabilities(part) for part in parts])

    def _probabilities(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        from PIL import Image

        pictures = [Image.fromarray(image) for image in images]
        inputs = self._processor(images=pictures, return_tensors="pt").to(self._device)
        with self._torch.inference_mode():
            logits_NK = self._model(**inputs).logits.float().cpu()
        shares_NK = logits_NK.softmax(dim=-1) if self._is_shared else logits_NK.sigmoid()
        return np.asarray(shares_NK[:, self._index].numpy(), dtype=np.float32)


def check_label_scorer(model: str, revision: str | None, label: str) -> None:
    """Fetch a model of the hub to this machine, and see that it is a classifier that knows the label.

    Raises:
        JobError: the model is not there, has no safetensors weights, is no image classifier, has no such label,
            or would need code of its own.
    """
    from transformers import AutoImageProcessor

    model_folder(model, revision)
    _index_of(_model_config(model, revision), model, label)
    try:
        AutoImageProcessor.from_pretrained(model, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise cannot_load(model, error) from error


def label_backend(model: str, revision: str | None, label: str) -> str:
    """A folder is named by its last part and its bytes: its path says nothing to another machine."""
    folder = Path(model)
    if folder.is_dir():
        return f"file:transformers/{folder.resolve().name}/{content_hash(folder)}:{label}"
    return f"hub:transformers/{model}{'' if revision is None else f'@{revision}'}:{label}"


def _model_config(model: str, revision: str | None) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    )

    try:
        config: Any = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise cannot_load(model, error) from error
    kind: str = config.model_type
    if kind not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        raise JobError(f"{model} is a {kind}, which does not classify pictures")
    if config.problem_type == "regression":
        raise JobError(f"{model} was trained to give a number, and not the probability of a label")
    return config


def _index_of(config: Any, model: str, label: str) -> int:
    labels: dict[int, str] = config.id2label
    found = [index for index, name in labels.items() if name == label]
    if not found:
        names = ", ".join(labels[index] for index in sorted(labels)[:20])
        more = ", ..." if len(labels) > 20 else ""
        raise JobError(f"{model} has no label {label!r}; its labels are {names}{more}")
    return found[0]
