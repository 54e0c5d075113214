import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from modeling.conditioning import TextFeatures
from modeling.text_encoder import (
    TEXT_ENCODERS,
    MiniLMTextEncoder,
    OpenCLIPTextEncoder,
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


def test_the_encoder_names_are_frozen() -> None:
    assert set(TEXT_ENCODERS) == {"minilm", "open_clip"}


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
