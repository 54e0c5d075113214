"""What it takes to ask a multimodal model: questions, answers, and the models by the name of their role."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from data_engine.caption_config import EndpointConfig, TransformersConfig

Image = NDArray[np.uint8]
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A prompt about some pictures (HxWx3 RGB, in order of time), or about none."""

    prompt: str
    images: Sequence[Image] = ()
    seed: int = 0
    """Another seed draws another answer, if the model draws."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a model said: never empty, without white space around it."""

    text: str
    num_tokens: int | None
    """Tokens of the answer as the model counts them; None if it did not say."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer for one clip, in one line. Other clips are not concerned."""

    reason: str
    is_transient: bool = False
    """Whether the same question may be answered later: a server is down, or has too much to do."""


class ChatModel(Protocol):
    """Answers questions, in order. One that cannot be answered gives a `Failure`."""

    @property
    def name(self) -> str:
        """Which model, stored with what it says; no path of this machine."""
        ...

    @property
    def is_random(self) -> bool:
        """Whether another seed can give another answer."""
        ...

    def ask(self, questions: Sequence[Question]) -> list[Answer | Failure]: ...


ChatModelConfig = EndpointConfig | TransformersConfig

HOW_TO_REACH = {
    *("url", "api_key_variable", "timeout_s", "max_retries", "max_backoff_s", "max_concurrency")
}
HOW_TO_RUN = {"device", "batch_size"}
"""Fields of a configuration that decide no answer."""


def decides_answers(config: ChatModelConfig) -> dict[str, Any]:
    """What decides the answers of a model; not where it runs, how many are asked at a time or how long to wait."""
    how = HOW_TO_REACH if isinstance(config, EndpointConfig) else HOW_TO_RUN
    return config.model_dump(mode="json", exclude=how)


def open_chat_model(config: ChatModelConfig) -> ChatModel:
    """Connects to a server, or loads weights into this process.

    Raises:
        JobError: the key is not in the environment, or the model cannot be loaded.
    """
    if isinstance(config, EndpointConfig):
        from data_engine.captioning.endpoint import EndpointChat

        return EndpointChat(config)
    from data_engine.captioning.local_model import TransformersChat

    return TransformersChat(config)


def check_chat_model(config: ChatModelConfig) -> None:
    """Find out before any work whether a model can be used; fetch its weights if they are on a hub.

    Raises:
        JobError: the server cannot be reached, refuses or has no such model; or a local model is not
            there, is of an unknown kind, or would need code of its own.
    """
    if isinstance(config, EndpointConfig):
        from data_engine.captioning.endpoint import check_endpoint

        check_endpoint(config)
    else:
        from data_engine.captioning.local_model import check_local_model

        check_local_model(config)


def shared_models(
    open_model: Callable[[ChatModelConfig], ChatModel] = open_chat_model,
) -> Callable[[ChatModelConfig], ChatModel]:
    """An opener that gives equal configurations the same model, so that weights are loaded once."""
    opened: dict[ChatModelConfig, ChatModel] = {}

    def open_once(config: ChatModelConfig) -> ChatModel:
        if config not in opened:
            opened[config] = open_model(config)
        return opened[config]

    return open_once


def evenly_spread(items: Sequence[Item], max_items: int) -> list[Item]:
    """At most so many items: the middles of as many equal parts, in order."""
    count = min(max_items, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]
