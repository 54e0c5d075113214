import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from modeling.conditioning import TextFeatures
from modeling.text_encoder import (
    ClassLabelEncoder,
    MiniLMTextEncoder,
    OpenCLIPTextEncoder,
    T5TextEncoder,
    TextEncoderError,
)

TINY_CLIP: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def minilm() -> MiniLMTextEncoder:
    return MiniLMTextEncoder(max_text_tokens=16)


def _similarity(features: TextFeatures, first: int, second: int) -> float:
    return torch.cosine_similarity(
        features.pooled_BD[first], features.pooled_BD[second], dim=0
    ).item()


def test_minilm_places_meanings_where_they_belong(minilm: MiniLMTextEncoder) -> None:
    features = minilm.encode(["a cat", "a kitten", "a tractor"])
    assert _similarity(features, 0, 1) > _similarity(features, 0, 2) + 0.2


def test_minilm_features_have_the_promised_shapes(minilm: MiniLMTextEncoder) -> None:
    features = minilm.encode(["a cat", "a small grey cat sleeps in the sun"])
    length = features.tokens_BLD.shape[1]
    assert features.tokens_BLD.shape == (2, length, minilm.text_width)
    assert features.pooled_BD.shape == (2, minilm.pooled_text_width)
    # [CLS] a cat [SEP], and [CLS] + 8 words + [SEP].
    assert features.mask_BL.sum(1).tolist() == [4, 10]
    assert minilm.text_width == 384
    assert not features.tokens_BLD.requires_grad


def test_a_text_does_not_depend_on_its_neighbours(minilm: MiniLMTextEncoder) -> None:
    alone = minilm.encode(["a cat"])
    padded = minilm.encode(["a cat", "a small grey cat sleeps in the sun"])
    torch.testing.assert_close(padded.pooled_BD[:1], alone.pooled_BD, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(padded.tokens_BLD[:1, :4], alone.tokens_BLD, rtol=1e-4, atol=1e-5)


def test_the_null_text_has_real_tokens_and_finite_features(minilm: MiniLMTextEncoder) -> None:
    null = minilm.encode([""])
    assert null.mask_BL.any()
    assert null.pooled_BD.isfinite().all()


def test_long_texts_are_cut(minilm: MiniLMTextEncoder) -> None:
    assert minilm.encode(["cat " * 100]).tokens_BLD.shape[1] == minilm.max_text_tokens


def _write_tiny_clip(folder: Path, **text_changes: Any) -> Any:
    """A small random CLIP in the folder layout of OpenCLIP; returns the same model in memory."""
    import open_clip

    config: dict[str, Any] = {**TINY_CLIP, "text_cfg": {**TINY_CLIP["text_cfg"], **text_changes}}
    torch.manual_seed(0)
    model = open_clip.CLIP(**config).eval()
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    )
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model


@pytest.mark.slow
def test_the_text_tower_of_a_clip_folder_is_read(tmp_path: Path) -> None:
    """The loading code of the hub path, on a small random CLIP written here."""
    reference = _write_tiny_clip(tmp_path / "clip")
    encoder = OpenCLIPTextEncoder(f"local-dir:{tmp_path / 'clip'}")
    assert (encoder.text_width, encoder.pooled_text_width, encoder.max_text_tokens) == (24, 24, 12)

    texts = ["a cat", "a small grey cat", ""]
    features = encoder.encode(texts)
    assert features.tokens_BLD.shape == (3, 12, 24)
    # Start and end of text, and one token for each of these common words.
    assert features.mask_BL.sum(1).tolist() == [4, 6, 2]

    import open_clip

    ids = open_clip.get_tokenizer("ViT-B-32")(texts, context_length=12)
    with torch.no_grad():
        expected = reference.encode_text(ids)
    torch.testing.assert_close(features.pooled_BD @ reference.text_projection, expected)


@pytest.mark.slow
def test_a_text_tower_with_another_end_of_text_is_refused(tmp_path: Path) -> None:
    _write_tiny_clip(tmp_path / "last", pool_type="last")
    with pytest.raises(TextEncoderError, match="pools its text by 'last'"):
        OpenCLIPTextEncoder(f"local-dir:{tmp_path / 'last'}")


def test_t5_encodes_texts_of_a_model_on_disk(tmp_path: Path) -> None:
    folder = write_tiny_t5(tmp_path / "t5")
    encoder = T5TextEncoder(str(folder), max_text_tokens=4)
    features = encoder.encode(["a cat", "a cat and a cat and a cat", ""])
    assert features.tokens_BLD.shape == (3, 4, encoder.text_width)
    assert features.mask_BL.sum(1).tolist() == [3, 4, 1]
    alone = encoder.encode(["a cat"])
    torch.testing.assert_close(features.pooled_BD[:1], alone.pooled_BD)
    torch.testing.assert_close(features.tokens_BLD[:1, :3], alone.tokens_BLD)
    torch.testing.assert_close(alone.pooled_BD, alone.tokens_BLD.mean(1))


def test_class_labels_are_one_hot_and_the_empty_text_is_a_class_of_its_own() -> None:
    encoder = ClassLabelEncoder(["archery", "diving"])
    features = encoder.encode(["diving", "", "archery"])
    assert features.pooled_BD.tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert torch.equal(features.tokens_BLD[:, 0], features.pooled_BD)
    assert features.mask_BL.all()


def test_a_text_that_is_no_class_is_refused() -> None:
    with pytest.raises(TextEncoderError, match="'rowing' is none of the 2 class names"):
        ClassLabelEncoder(["archery", "diving"]).encode(["rowing"])


def test_class_names_must_differ() -> None:
    with pytest.raises(TextEncoderError, match="different"):
        ClassLabelEncoder(["diving", "diving"])


def write_tiny_t5(folder: Path) -> Path:
    """A T5 encoder of two narrow layers with a vocabulary of five words."""
    words = ["<pad>", "</s>", "<unk>", "a", "cat", "and"]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", words.index("</s>"))]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    wrapped.save_pretrained(folder)
    config = T5Config(vocab_size=len(words), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    torch.manual_seed(0)
    T5EncoderModel(config).save_pretrained(folder)
    return folder
