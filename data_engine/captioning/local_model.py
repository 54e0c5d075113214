"""A chat model that transformers runs in this process: any image-text-to-text or video model, or a plain LLM.

Only safetensors weights are read, and no code that comes with a model is run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_engine.caption_config import TransformersConfig
from data_engine.captioning.chat import Answer, Failure, Image, Question
from data_engine.errors import JobError
from data_engine.hub_models import best_device, cannot_load, model_folder


class TransformersChat:
    """Loads a model once and generates in batches.

    Raises:
        JobError: the model is not there, is of an unknown kind, or would need code of its own.
    """

    def __init__(self, config: TransformersConfig) -> None:
        import torch

        self._torch = torch
        self._config = config
        self.name = _name(config)
        self._processor, self._is_multimodal = _load_processor(config)
        self._shows_videos = config.frames_as == "video"
        self._tokenizer: Any = getattr(self._processor, "tokenizer", self._processor)
        # Answers of a batch all begin where the prompts end.
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._device = _device(config)
        self._model = _load_model(config, self._is_multimodal).to(self._device).eval()

    @property
    def is_random(self) -> bool:
        return self._config.temperature > 0

    def ask(self, questions: Sequence[Question]) -> list[Answer | Failure]:
        answers: list[Answer | Failure] = []
        for start in range(0, len(questions), self._config.batch_size):
            answers += self._ask_batch(questions[start : start + self._config.batch_size])
        return answers

    def _ask_batch(self, questions: Sequence[Question]) -> list[Answer | Failure]:
        inputs = self._processor.apply_chat_template(
            [self._conversation(question) for question in questions],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            **self._padding(),
        )
        # Pictures come as float32, whatever the type of the weights is; token ids stay whole numbers.
        types = {"dtype": self._model.dtype} if self._is_multimodal else {}
        inputs = inputs.to(self._device, **types)
        sampling: dict[str, Any] = (
            {"do_sample": True, "temperature": self._config.temperature}
            if self.is_random
            # Checkpoints bring sampling settings of their own, which would only warn here.
            else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        )
        devices = [self._device] if self._device == "cuda" else []
        with self._torch.inference_mode(), self._torch.random.fork_rng(devices=devices):
            # `generate` draws from the global generator; the same row must give the same answer again.
            self._torch.manual_seed(questions[0].seed)
            tokens_BL = self._model.generate(
                **inputs,
                max_new_tokens=self._config.max_new_tokens,
                pad_token_id=self._tokenizer.pad_token_id,
                **sampling,
            )
        new_tokens_BL = tokens_BL[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._read_answer(tokens_L) for tokens_L in new_tokens_BL]

    def _padding(self) -> dict[str, Any]:
        # Processors want it among their own arguments, tokenizers as an argument of the template.
        if not self._is_multimodal:
            return {"padding": True}
        # The frames were chosen already; a second choice would drop some of the few.
        videos = {"videos_kwargs": {"do_sample_frames": False}} if self._shows_videos else {}
        return {"processor_kwargs": {"padding": True, **videos}}

    def _conversation(self, question: Question) -> list[dict[str, Any]]:
        from PIL import Image as PILImage

        if not self._is_multimodal:
            assert not question.images, f"{self.name} takes no pictures"
            return [{"role": "user", "content": question.prompt}]
        content: list[dict[str, Any]]
        takes_images = getattr(self._processor, "image_processor", None) is not None
        if self._shows_videos and (len(question.images) > 1 or not takes_images):
            content = [{"type": "video", "video": np.stack(_alike(question.images))}]
        else:
            content = [
                {"type": "image", "image": PILImage.fromarray(image)} for image in question.images
            ]
        return [{"role": "user", "content": [*content, {"type": "text", "text": question.prompt}]}]

    def _read_answer(self, tokens_L: list[int]) -> Answer | Failure:
        ends = self._model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        num_tokens = next((i for i, token in enumerate(tokens_L) if token in ends), None)
        if num_tokens is None:
            return Failure("the answer was cut in the middle; allow more with max_new_tokens")
        text = self._tokenizer.decode(tokens_L[:num_tokens], skip_special_tokens=True).strip()
        return Answer(text=text, num_tokens=num_tokens) if text else Failure("the answer is empty")


def _alike(images: Sequence[Image]) -> list[Image]:
    """The frames of a video must have one size; those of a clip do, unless its source changes it on the way."""
    height_px, width_px = images[0].shape[:2]
    return [
        image
        if image.shape == images[0].shape
        else np.asarray(cv2.resize(image, (width_px, height_px)), dtype=np.uint8)
        for image in images
    ]


def check_local_model(config: TransformersConfig) -> None:
    """Fetch a model of the hub to this machine, and see that transformers knows its kind.

    Raises:
        JobError: the model is not there, is of an unknown kind, has no chat template or no safetensors
            weights, or would need code of its own; or there is no GPU that was asked for.
    """
    import torch

    # With `auto` the workers may well have a GPU that the driver has not.
    if config.device == "cuda" and not torch.cuda.is_available():
        raise JobError("device is cuda, but there is no GPU here; set device to auto or cpu")
    model_folder(_path(config), config.revision)
    _load_processor(config)


def _load_processor(config: TransformersConfig) -> tuple[Any, bool]:
    """What prepares the input, and whether it takes pictures."""
    from transformers import AutoConfig, AutoProcessor, AutoTokenizer
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    where: dict[str, Any] = {"revision": config.revision, "trust_remote_code": False}
    try:
        kind: str = AutoConfig.from_pretrained(_path(config), **where).model_type
        is_multimodal = kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        if not is_multimodal and kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            raise JobError(f"{config.model} is a {kind}, which is no model that chats")
        loader = AutoProcessor if is_multimodal else AutoTokenizer
        processor: Any = loader.from_pretrained(_path(config), **where)
    except (OSError, ValueError) as error:
        raise cannot_load(_path(config), error) from error
    if getattr(processor, "chat_template", None) is None:
        raise JobError(f"{config.model} has no chat template; take a model that was tuned to chat")
    if config.frames_as == "video" and getattr(processor, "video_processor", None) is None:
        raise JobError(
            f"frames_as is 'video', but {config.model} has no video input; set it to 'images', or take a video model"
        )
    return processor, is_multimodal


def _load_model(config: TransformersConfig, is_multimodal: bool) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.utils import logging as transformers_logging

    # Bars of many workers would write over each other.
    transformers_logging.disable_progress_bar()
    loader = AutoModelForImageTextToText if is_multimodal else AutoModelForCausalLM
    try:
        return loader.from_pretrained(
            _path(config),
            revision=config.revision,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=config.dtype,
        )
    except (OSError, ValueError) as error:
        raise cannot_load(_path(config), error) from error


def _path(config: TransformersConfig) -> str:
    assert config.model is not None, "the configuration was checked when it was made"
    return config.model


def _name(config: TransformersConfig) -> str:
    """A folder is named by its last part: the rest of its path says nothing to another machine."""
    path = Path(_path(config))
    if path.is_dir():
        return f"file:transformers/{path.resolve().name}"
    revision = "" if config.revision is None else f"@{config.revision}"
    return f"hub:transformers/{config.model}{revision}"


def _device(config: TransformersConfig) -> str:
    return best_device() if config.device == "auto" else config.device
