"""A real HTTP server that speaks the chat completions protocol and misbehaves on request."""

import base64
import json
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from data_engine.captioning.chat import Image
from data_engine.container import decode_jpeg

MODEL = "test-vlm"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, after its form was checked."""

    prompt: str
    images: list[Image]
    body: dict[str, Any]


@dataclass(slots=True)
class Reply:
    """What the server does with one request."""

    text: Any = "A cat sits on a chair."
    status: int = 200
    finish_reason: str = "stop"
    delay_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    raw: bytes | None = None


@dataclass(slots=True)
class ChatServer:
    url: str = ""
    key: str | None = None
    reply: Callable[[Asked], Reply] = lambda _: Reply()
    asked: list[Asked] = field(default_factory=list[Asked])
    problems: list[str] = field(default_factory=list[str])
    """What was wrong with the form of requests."""
    under_way: int = 0
    most_under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def _parse(body: dict[str, Any]) -> Asked:
    """The parts of a request; an AssertionError names what the protocol does not allow."""
    assert body["model"] == MODEL
    assert isinstance(body["max_tokens"], int)
    assert isinstance(body["temperature"], int | float)
    (message,) = body["messages"]
    assert message["role"] == "user"
    content = message["content"]
    if isinstance(content, str):
        return Asked(content, [], body)
    images: list[Image] = []
    for part in content[:-1]:
        assert part["type"] == "image_url"
        head, _, data = part["image_url"]["url"].partition(",")
        assert head == "data:image/jpeg;base64"
        images.append(decode_jpeg(base64.b64decode(data, validate=True)))
    assert content[-1]["type"] == "text"
    return Asked(content[-1]["text"], images, body)


class _Http(ThreadingHTTPServer):
    chat: ChatServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _chat(self) -> ChatServer:
        assert isinstance(self.server, _Http)
        return self.server.chat

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if not self._has_key():
            return
        if self.path != "/v1/models":
            self._send(404, b"<html>no such page</html>")
            return
        self._send(200, json.dumps({"object": "list", "data": [{"id": MODEL}]}).encode())

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._has_key():
            return
        try:
            assert self.path == "/v1/chat/completions", self.path
            assert self.headers["Content-Type"] == "application/json"
            asked = _parse(json.loads(data))
        except AssertionError as error:
            self._chat.problems.append(repr(error))
            self._send(400, b"bad form")
            return
        with self._chat.lock:
            self._chat.asked.append(asked)
            self._chat.under_way += 1
            self._chat.most_under_way = max(self._chat.most_under_way, self._chat.under_way)
            reply = self._chat.reply(asked)
        time.sleep(reply.delay_s)
        with self._chat.lock:
            self._chat.under_way -= 1
        self._send(reply.status, reply.raw or _completion(reply), reply.headers)

    def _has_key(self) -> bool:
        if (
            self._chat.key is None
            or self.headers.get("Authorization") == f"Bearer {self._chat.key}"
        ):
            return True
        self._send(401, b'{"error": "wrong key"}')
        return False

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        try:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            # The client had enough of waiting.
            self.close_connection = True


def _completion(reply: Reply) -> bytes:
    message = {"role": "assistant", "content": reply.text}
    choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
    usage = {"prompt_tokens": 9, "completion_tokens": len(str(reply.text).split())}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()


@contextmanager
def running_chat_server() -> Generator[ChatServer]:
    """A server on a free port of this machine, stopped on leaving. No request may have been malformed."""
    server = ChatServer()
    http = _Http(("127.0.0.1", 0), _Handler)
    http.chat = server
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
    assert not server.problems
