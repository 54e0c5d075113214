"""Image classifiers of a few kilobytes, written to disk as a hub would hold them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import transformers  # its classes are imported when they are first named, which takes seconds

PICTURE_PX = 16


def write_classifier(
    folder: Path,
    labels: Sequence[str],
    *,
    seed: int = 0,
    problem_type: Literal["multi_label_classification", "regression"] | None = None,
) -> Path:
    """A vision transformer with random weights: what it says depends on the picture, and means nothing."""
    torch.manual_seed(seed)
    config = transformers.ViTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=PICTURE_PX,
        patch_size=8,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        problem_type=problem_type,
        # Large enough that two pictures do not get nearly the same probability.
        initializer_range=0.5,
    )
    transformers.ViTForImageClassification(config).eval().save_pretrained(folder)
    size = {"height": PICTURE_PX, "width": PICTURE_PX}
    transformers.ViTImageProcessor(size=size).save_pretrained(folder)
    return folder
