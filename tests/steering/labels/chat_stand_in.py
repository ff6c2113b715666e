"""A stand-in for an OpenAI-compatible chat server on loopback, with faults on demand."""

import json
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = str | dict[str, Any] | Callable[["ChatStandIn"], str]
"""What is answered: a message, the whole JSON, or what a function of the server gives."""


class Fault:
    """Something that one request is answered with in place of an answer."""

    def __init__(
        self,
        status: int = 200,
        body: bytes = b'{"error": {"message": "broken on purpose"}}',
        *,
        headers: dict[str, str] | None = None,
        cut_at: int | None = None,
        seconds_per_byte: float = 0.0,
        silent: bool = False,
    ) -> None:
        self.status, self.body, self.headers = status, body, headers or {}
        self.cut_at, self.seconds_per_byte, self.silent = cut_at, seconds_per_byte, silent


class ChatStandIn(ThreadingHTTPServer):
    """The server, with what it was asked, and what it is to do wrong."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.key: str | None = None
        """What a request must carry, if anything."""
        self.models = ["stand-in-1"]
        self.requests: list[dict[str, Any]] = []
        """The bodies of the requests for an answer, in order."""
        self.paths: list[str] = []
        self.faults: dict[int, Fault] = {}
        """By the number of the request, from 0, what is done in place of answering."""
        self.refused_settings: tuple[str, ...] = ()
        """Settings of a request that are answered with status 400."""
        self.labels: Callable[[str], Answer] = lambda text: "words of one letter"
        """The answer to a question for a label, from the question."""
        self.judges: Callable[[str, list[str]], Answer] = lambda label, texts: "[]"
        """The answer to the question which of the texts the label fits."""
        self.ended = threading.Event()
        self.lock = threading.Lock()

    def answer(self, messages: list[dict[str, str]]) -> Answer:
        """What the model says."""
        question = next(m["content"] for m in messages if m["role"] == "user")
        if question.startswith("Label: "):
            label, _, listed = question.removeprefix("Label: ").partition("\n\nTexts:\n")
            texts = [line.partition(". ")[2] for line in listed.splitlines()]
            return self.judges(label, texts)
        return self.labels(question)


@contextmanager
def chat_stand_in() -> Generator[ChatStandIn]:
    """A running stand-in."""
    server = ChatStandIn()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: ChatStandIn  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        if self._is_refused():
            return
        self._send(200, {"object": "list", "data": [{"id": name} for name in self.server.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.paths.append(self.path)
            number = len(self.server.requests)
            self.server.requests.append(body)
        if self._is_refused():
            return
        for name in self.server.refused_settings:
            if name in body:
                message = f"Unsupported parameter: '{name}' is not supported with this model."
                self._send(400, {"error": {"message": message, "param": name}})
                return
        if number in self.server.faults:
            self._fail(self.server.faults[number])
            return
        answer = self.server.answer(body["messages"])
        if callable(answer):
            answer = answer(self.server)
        if isinstance(answer, str):
            answer = {"choices": [{"message": {"content": answer}, "finish_reason": "stop"}]}
        self._send(200, {"usage": {"prompt_tokens": 100, "completion_tokens": 7}, **answer})

    def _is_refused(self) -> bool:
        key = self.server.key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return False
        self._send(401, {"error": {"message": "no such key"}})
        return True

    def _send(self, status: int, values: dict[str, Any]) -> None:
        self._fail(Fault(status, json.dumps(values).encode()))

    def _fail(self, fault: Fault) -> None:
        if fault.silent:
            self.server.ended.wait(30)
            self.close_connection = True
            return
        try:
            self.send_response(fault.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(fault.body)))
            for name, value in fault.headers.items():
                self.send_header(name, value)
            self.end_headers()
            body = fault.body if fault.cut_at is None else fault.body[: fault.cut_at]
            if not fault.seconds_per_byte:
                self.wfile.write(body)
            for byte in body if fault.seconds_per_byte else b"":
                self.wfile.write(bytes([byte]))
                time.sleep(fault.seconds_per_byte)
        except OSError:  # whoever asked is gone
            pass
        self.close_connection = True
