"""A client of OpenAI-compatible chat servers that ends: bounded waits, bounded tries, one sentence
about what failed."""

import email.utils
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, cast
from urllib.parse import urlsplit

import httpx2

from ...sae.common.errors import InputError
from ...sae.common.text import visible, without_middle
from ...sae.common.wording import duration
from .prompts import Messages

_TRIES = 5
_FIRST_WAIT = 1.0
_LONGEST_WAIT = 120.0
"""Seconds; a server that asks for a longer wait is left for another time."""
_MOST_BYTES = 4 << 20
_NEW_NAME = "max_completion_tokens"


class EndpointError(OSError):
    """The server failed, more often than it is asked again. The message is one sentence."""


class _Passing(Exception):
    """A failure that may be gone the next time; the message is what happened."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


@dataclass(frozen=True)
class ChatAnswer:
    """What a server answered."""

    text: str
    cut_off: bool
    """Whether the limit of tokens ended it."""
    tokens_in: int
    tokens_out: int


class ChatClient:
    """Asks one model of one server.

    Attributes:
        address: the server's address, which holds no key.
        model: name of the model.  repeated: requests that were made again so far.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None,
        key: str | None = None,
        timeout: float = 60.0,
        answer_tokens: int = 256,
        sleep: Callable[[float], None] = time.sleep,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """Ask nothing yet, unless the server's only model is to be found.

        Args:
            url: the address, with or without `/v1` or `/chat/completions` at its end.
            model: its name; None takes the only one that the server has.
            key: sent as a bearer token.
            timeout: seconds that a whole answer may take.
            answer_tokens: most tokens of an answer.
            sleep: waits so many seconds between two tries.
            say: told of every wait.

        Raises:
            InputError: the address is none, or the server does not say which model to ask.
            EndpointError: it does not answer.
        """
        self.address = server_address(url)
        self._timeout, self._sleep, self._say = timeout, sleep, say
        self._limits: dict[str, Any] = {"max_tokens": answer_tokens, "temperature": 0, "seed": 0}
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
            raise InputError("the key has characters that no key has; check its variable")
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx2.Client(timeout=timeout, headers=headers)
        self.repeated = 0
        self.model = model or self._only_model()

    def ask(self, messages: Messages) -> ChatAnswer:
        """The answer to a conversation.

        Raises:
            InputError: the server refuses the request, and would again.
            EndpointError: it failed or was busy on every try.
        """
        return self._persist(lambda: self._answer(messages))

    def _answer(self, messages: Messages) -> ChatAnswer:
        body = {"model": self.model, "messages": messages, **self._limits}
        values = self._json("POST", "/chat/completions", body)
        try:
            choice = values["choices"][0]
            text, ended = choice["message"].get("content"), choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise _Passing("answers without a message") from None
        if text is not None and not isinstance(text, str):
            raise _Passing("answers without a message")
        usage = values.get("usage")
        counts = cast(dict[str, Any], usage) if isinstance(usage, dict) else {}
        tokens = [counts.get(name) for name in ("prompt_tokens", "completion_tokens")]
        tokens_in, tokens_out = (n if type(n) is int and n >= 0 else 0 for n in tokens)
        return ChatAnswer(text or "", ended == "length", tokens_in, tokens_out)

    def _only_model(self) -> str:
        values = self._persist(lambda: self._json("GET", "/models"))
        data = values.get("data")
        entries = cast(list[Any], data) if isinstance(data, list) else []
        names = [
            str(cast(dict[str, Any], entry)["id"])
            for entry in entries
            if isinstance(entry, dict) and "id" in entry
        ]
        if len(names) == 1:
            return names[0]
        has = f"has {', '.join(names[:5])}" if names else "does not say which models it has"
        raise InputError(f"model is missing, and {self.address} {has}; give --model NAME")

    def _persist(self, request: Callable[[], Any]) -> Any:
        """What the request gives, repeated with rising waits while its failure may pass."""
        wait = _FIRST_WAIT
        for left in range(_TRIES - 1, -1, -1):
            try:
                return request()
            except _Passing as failure:
                if left == 0:
                    raise EndpointError(
                        f"{self.address} {failure}, {_TRIES} times in a row; what is labeled is "
                        "kept, and the same command goes on"
                    ) from None
                seconds = wait if failure.wait is None else failure.wait
                if seconds > _LONGEST_WAIT:
                    raise EndpointError(
                        f"{self.address} {failure}, and asks to wait {duration(seconds)}; give the "
                        "same command again then"
                    ) from None
                self._say(f"{self.address} {failure}; asking again in {duration(seconds)}")
                self.repeated += 1
                self._sleep(seconds)
                wait *= 2
        raise AssertionError

    def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The object that the server answers with."""
        deadline = time.monotonic() + self._timeout
        content = bytearray()
        try:
            with self._http.stream(method, f"{self.address}{path}", json=body) as response:
                for part in response.iter_bytes():
                    content += part
                    if len(content) > _MOST_BYTES:
                        raise _Passing(f"answers with more than {_MOST_BYTES >> 20} MiB")
                    if time.monotonic() > deadline:
                        raise httpx2.ReadTimeout("the answer takes too long")
        except httpx2.TimeoutException:
            raise _Passing(f"does not answer within {duration(self._timeout)}") from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            reason = str(error).strip() or type(error).__name__
            raise _Passing(f"cannot be reached ({visible(reason)})") from None
        if not response.is_success:
            self._raise_refusal(response, bytes(content), body)
        try:
            values: object = json.loads(content)
        except (ValueError, RecursionError):
            raise _Passing("answers with what is not JSON") from None
        if not isinstance(values, dict):
            raise _Passing("answers with what is no JSON object")
        return cast(dict[str, Any], values)

    def _raise_refusal(
        self, response: httpx2.Response, content: bytes, body: dict[str, Any] | None
    ) -> NoReturn:
        status, said = response.status_code, _message(content)
        if status in (408, 409, 425, 429) or status >= 500:
            what = "is busy" if status == 429 else "fails"
            raise _Passing(f"{what} (status {status}{said})", _retry_after(response))
        if status in (401, 403):
            raise InputError(
                f"{self.address} refuses the key (status {status}{said}); put the right one into "
                "an environment variable and name it with --api-key-env"
            )
        if status == 404:
            raise InputError(
                f"{self.address} has no {response.url.path}, or no such model (status 404{said}); "
                "check --endpoint and --model"
            )
        if response.is_redirect:
            raise InputError(
                f"{self.address} sends the request elsewhere (status {status}); give the address "
                "that answers"
            )
        if body is not None and self._drop_refused(said):
            raise _Passing(f"refuses a setting (status {status}{said})", 0.0)
        raise InputError(f"{self.address} refuses the request (status {status}{said}); check it")

    def _drop_refused(self, said: str) -> bool:
        """Whether a setting that the server does not take could be left out or renamed."""
        if "max_tokens" in said and "max_tokens" in self._limits:
            self._limits[_NEW_NAME] = self._limits.pop("max_tokens")
            return True
        for name in ("temperature", "seed"):
            if name in said and self._limits.pop(name, None) is not None:
                return True
        return False


def server_address(url: str) -> str:
    """The address that paths are added to."""
    try:
        parts = urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
        httpx2.URL(url)
    except (ValueError, httpx2.InvalidURL) as error:
        raise InputError(
            f"endpoint is {url!r}, which is no address ({error}); give one such as "
            "http://127.0.0.1:8000/v1",
            field="endpoint",
        ) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"endpoint is {url!r}, but must be local or an address such as "
            "http://127.0.0.1:8000/v1",
            field="endpoint",
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InputError(
            "endpoint has a user name, a key or a query in it; give the plain address, and the "
            "key by --api-key-env",
            field="endpoint",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return f"{parts.scheme}://{host}{port}{path}"


def _message(content: bytes) -> str:
    """What the server says about a refusal, shortened, behind a colon; empty if nothing."""
    text = content.decode("utf-8", "replace")
    try:
        error: Any = json.loads(text)
        error = error.get("error", error)
        text = error if isinstance(error, str) else error["message"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    text = visible(" ".join(str(text).split()))
    return f": {without_middle(text, 120)}" if text else ""


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds that the server asks to wait; None if it does not say."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
