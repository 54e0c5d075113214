"""A chat model behind an OpenAI-compatible server. The protocol is spoken over plain HTTP."""

import base64
import json
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import httpx2

from data_engine.caption_config import EndpointConfig
from data_engine.captioning.chat import Answer, Failure, Image, Question
from data_engine.container import encode_jpeg
from data_engine.errors import JobError

_FIRST_BACKOFF_S = 0.25
_TRY_AGAIN = frozenset((408, 409, 425, 429))
_MAX_QUOTED = 200


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why a try failed that may work later, and how long the server asked to wait."""

    problem: str
    wait_s: float = 0.0


class EndpointChat:
    """Sends each question as one request; several are under way at a time.

    Raises:
        JobError: the variable that should hold the key is not set; later, from `ask`: the server no longer
            takes the key, or no longer knows the address or the model.
    """

    def __init__(self, config: EndpointConfig) -> None:
        assert config.model is not None, "the configuration was checked when it was made"
        self._config = config
        self._headers = _headers(config)
        self._jitter = random.Random()

    @property
    def name(self) -> str:
        return f"endpoint:{self._config.model}"

    @property
    def is_random(self) -> bool:
        return self._config.temperature > 0

    def ask(self, questions: Sequence[Question]) -> list[Answer | Failure]:
        with (
            httpx2.Client(
                headers={"Content-Type": "application/json", **self._headers},
                timeout=self._config.timeout_s,
            ) as client,
            ThreadPoolExecutor(self._config.max_concurrency) as threads,
        ):
            return list(threads.map(partial(self._ask_one, client), questions))

    def _ask_one(self, client: httpx2.Client, question: Question) -> Answer | Failure:
        body = json.dumps(self._body(question)).encode()
        for attempt in count():
            outcome = self._try(client, body)
            if not isinstance(outcome, _Trouble):
                return outcome
            if attempt == self._config.max_retries:
                problem = f"no answer in {attempt + 1} tries; the last: {outcome.problem}"
                return Failure(problem, is_transient=True)
            # Workers that were refused together should not come back together.
            backoff_s = _FIRST_BACKOFF_S * 2**attempt * self._jitter.uniform(0.75, 1.25)
            time.sleep(min(max(backoff_s, outcome.wait_s), self._config.max_backoff_s))
        raise AssertionError("count() has no end")

    def _try(self, client: httpx2.Client, body: bytes) -> "Answer | Failure | _Trouble":
        try:
            response = client.post(f"{self._config.url}/chat/completions", content=body)
        except httpx2.TransportError as error:
            return _Trouble(f"{type(error).__name__}: {error}")
        if response.is_success:
            return _read_answer(response)
        problem = f"status {response.status_code}: {_quote(response)}"
        if response.status_code in (401, 404):
            raise JobError(
                f"{self._config.url} answered {problem}; it took the key and model "
                f"{self._config.model!r} when the job began, so look at the server"
            )
        if response.status_code in _TRY_AGAIN or response.status_code >= 500:
            return _Trouble(problem, _retry_after_s(response))
        return Failure(f"the server turned the request down, {problem}")

    def _body(self, question: Question) -> dict[str, Any]:
        pictures = [
            {"type": "image_url", "image_url": {"url": _data_uri(image)}}
            for image in question.images
        ]
        text = {"type": "text", "text": question.prompt}
        body: dict[str, Any] = {
            "model": self._config.model,
            # Servers of text models take only plain text.
            "messages": [
                {"role": "user", "content": [*pictures, text] if pictures else question.prompt}
            ],
            "max_tokens": self._config.max_new_tokens,
            "temperature": self._config.temperature,
        }
        if self.is_random:
            body["seed"] = question.seed
        return body


def check_endpoint(config: EndpointConfig) -> None:
    """Ask the server for its models, once.

    Raises:
        JobError: there is no such server at the address, the key is missing or refused, or the server has
            no such model.
    """
    what_to_do = "correct the url (it normally ends in /v1), or start the server"
    try:
        response = httpx2.get(
            f"{config.url}/models", headers=_headers(config), timeout=config.timeout_s
        )
    except httpx2.TransportError as error:
        raise JobError(
            f"no captioning server answers at {config.url} ({type(error).__name__}: {error}); {what_to_do}"
        ) from error
    if response.status_code in (401, 403):
        raise JobError(
            f"{config.url} answered status {response.status_code}, so it wants another key; set "
            f"{config.api_key_variable or 'api_key_variable, and the variable that it names,'} to it"
        )
    try:
        models = [str(model["id"]) for model in response.raise_for_status().json()["data"]]
    except (httpx2.HTTPStatusError, ValueError, KeyError, TypeError) as error:
        raise JobError(
            f"{config.url} is no OpenAI-compatible server: to GET /models it answered status "
            f"{response.status_code}, {_quote(response)}; {what_to_do}"
        ) from error
    if config.model not in models:
        raise JobError(
            f"the server at {config.url} has no model {config.model!r}; it has {', '.join(models) or 'none'}"
        )


def _headers(config: EndpointConfig) -> dict[str, str]:
    if config.api_key_variable is None:
        return {}
    key = os.environ.get(config.api_key_variable)
    if not key:
        raise JobError(
            f"the environment variable {config.api_key_variable} should hold the key for {config.url} but is "
            "not set; set it where the workers run"
        )
    return {"Authorization": f"Bearer {key}"}


def _read_answer(response: httpx2.Response) -> Answer | Failure:
    try:
        data = response.json()
        choice = data["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
        num_tokens = (data.get("usage") or {}).get("completion_tokens")
    except (ValueError, LookupError, TypeError, AttributeError):
        return Failure(f"the answer is no chat completion: {_quote(response)}")
    if not isinstance(text, str) or not text.strip():
        return Failure("the answer is empty")
    if reason == "length":
        return Failure("the answer was cut in the middle; allow more with max_new_tokens")
    return Answer(text=text.strip(), num_tokens=num_tokens if isinstance(num_tokens, int) else None)


def _retry_after_s(response: httpx2.Response) -> float:
    """What the server asked to wait; 0 if it did not, or named a date."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0


def _quote(response: httpx2.Response) -> str:
    text = " ".join(response.text.split())
    return repr(text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "...")


def _data_uri(image: Image) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(image)).decode()
