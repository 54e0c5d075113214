"""Chat models of a few kilobytes, written to disk as a hub would hold them, and trained to see two colours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers  # its classes are imported when they are first named, which takes seconds
from PIL import Image as PILImage
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from data_engine.captioning.chat import Image

DESCRIBE = "Describe it"
MERGE = "Merge them"
RED: Image = np.full((48, 64, 3), (220, 30, 30), dtype=np.uint8)
BLUE: Image = np.full((48, 64, 3), (30, 30, 220), dtype=np.uint8)

_END = "</s>"
_WORDS = (
    *("<pad>", "<unk>", _END, "<image>", "USER:", "ASSISTANT:", "1.", "2.", "A", "red", "blue"),
    *("wall", ".", "then", *DESCRIBE.split(), *MERGE.split()),
)
_VIDEO_WORDS = (*_WORDS, "<video>")
_IMAGE_TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{{ part['text'] if part['type'] == 'text' else '<' + part['type'] + '> ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
_TEXT_TEMPLATE = (
    "{% for message in messages %}USER: {{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
_SEEN: tuple[tuple[tuple[Image, ...], str], ...] = (
    ((RED,), "A red wall ."),
    ((BLUE,), "A blue wall ."),
    ((RED, BLUE), "A red wall then A blue wall ."),
    ((BLUE, RED), "A blue wall then A red wall ."),
)
_MERGED = (
    ("1. A red wall . 2. A blue wall .", "A red wall then A blue wall ."),
    ("1. A blue wall . 2. A red wall .", "A blue wall then A red wall ."),
    ("1. A blue wall . 2. A blue wall .", "A blue wall ."),
)
_PICTURE_PX, _PATCH_PX = 16, 8


def _tokenizer(words: Sequence[str] = _WORDS) -> "transformers.PreTrainedTokenizerFast":
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]  # typed without its setter
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token=_END,
        additional_special_tokens=[w for w in words if w in ("<image>", "<video>")],
    )


def _text_config(words: Sequence[str] = _WORDS) -> "transformers.LlamaConfig":
    return transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=_WORDS.index("<pad>"),
        eos_token_id=_WORDS.index(_END),
        bos_token_id=None,
    )


def write_tiny_vlm(folder: Path) -> Path:
    """A LLaVA that names the colours of the pictures that it is shown, in their order."""
    tokenizer = _tokenizer()
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": _PICTURE_PX},
            crop_size={"height": _PICTURE_PX, "width": _PICTURE_PX},
        ),
        tokenizer=tokenizer,
        patch_size=_PATCH_PX,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=_IMAGE_TEMPLATE,
    )
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            vision_config=transformers.CLIPVisionConfig(
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=_PICTURE_PX,
                patch_size=_PATCH_PX,
                projection_dim=16,
            ),
            text_config=_text_config(),
            image_token_index=_WORDS.index("<image>"),
            vision_feature_layer=-1,
        )
    )
    lessons: list[tuple[Any, str]] = []
    for images, answer in _SEEN:
        pictures = [{"type": "image", "image": PILImage.fromarray(image)} for image in images]
        content = [*pictures, {"type": "text", "text": DESCRIBE}]
        lessons.append((_inputs(processor, content), answer))
    _train(model, tokenizer, lessons, num_steps=60)
    _save(folder, model, processor)
    return folder


def write_tiny_video_model(folder: Path) -> Path:
    """A LLaVA-OneVision that names the colours of a video of two frames, in their order."""
    tokenizer = _tokenizer(_VIDEO_WORDS)
    size = {"height": _PICTURE_PX, "width": _PICTURE_PX}
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(
            size=size, image_grid_pinpoints=[[_PICTURE_PX, _PICTURE_PX]]
        ),
        tokenizer=tokenizer,
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(_PICTURE_PX // _PATCH_PX) ** 2,
        vision_feature_select_strategy="full",
        chat_template=_IMAGE_TEMPLATE,
    )
    torch.manual_seed(0)
    model = transformers.LlavaOnevisionForConditionalGeneration(
        transformers.LlavaOnevisionConfig(
            vision_config=transformers.SiglipVisionConfig(
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=_PICTURE_PX,
                patch_size=_PATCH_PX,
                vision_use_head=False,
            ),
            text_config=_text_config(_VIDEO_WORDS),
            image_token_index=_WORDS.index("<image>"),
            video_token_index=_VIDEO_WORDS.index("<video>"),
            image_grid_pinpoints=[[_PICTURE_PX, _PICTURE_PX]],
            vision_feature_layer=-1,
        )
    )
    lessons: list[tuple[Any, str]] = []
    for images, answer in _SEEN:
        if len(images) > 1:
            video = {"type": "video", "video": np.stack(images)}
            inputs = _inputs(processor, [video, {"type": "text", "text": DESCRIBE}])
            lessons.append((inputs, answer))
    _train(model, tokenizer, lessons, num_steps=60)
    _save(folder, model, processor)
    return folder


def write_tiny_llm(folder: Path) -> Path:
    """A Llama that merges two numbered lines."""
    tokenizer = _tokenizer()
    tokenizer.chat_template = _TEXT_TEMPLATE
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(_text_config())
    lessons = [(_inputs(tokenizer, f"{MERGE} {lines}"), answer) for lines, answer in _MERGED]
    _train(model, tokenizer, lessons, num_steps=60)
    _save(folder, model, tokenizer)
    return folder


def _inputs(processor: Any, content: Any) -> Any:
    return processor.apply_chat_template(
        [[{"role": "user", "content": content}]],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def _train(
    model: Any,
    tokenizer: "transformers.PreTrainedTokenizerFast",
    lessons: Sequence[tuple[Any, str]],
    num_steps: int,
) -> None:
    """Learn the answers by heart."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(num_steps):
        optimizer.zero_grad()
        for inputs, answer in lessons:
            ends = torch.tensor([tokenizer.encode(f"{answer} {_END}", add_special_tokens=False)])
            tokens_BL = torch.cat([inputs["input_ids"], ends], dim=1)
            labels_BL = tokens_BL.clone()
            labels_BL[:, : -ends.shape[1]] = -100
            pictures = {k: v for k, v in inputs.items() if k.startswith("pixel_values")}
            model(
                input_ids=tokens_BL,
                attention_mask=torch.ones_like(tokens_BL),
                labels=labels_BL,
                **pictures,
            ).loss.backward()
        optimizer.step()


def _save(folder: Path, model: Any, processor: Any) -> None:
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
