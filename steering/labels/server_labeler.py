"""Labels by an OpenAI-compatible server."""

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from ...sae.common.errors import InputError
from .answers import BadAnswer, label_of, numbers_of
from .chat_client import ChatAnswer, ChatClient
from .evidence import Evidence
from .labeler import Usage
from .prompts import AGAIN, Messages, ask_for_label, ask_which_fit

T = TypeVar("T")

_TRIES = 2
"""How often an answer that cannot be used is asked for."""


class ServerLabeler:
    """A `Labeler` that asks a server.

    Attributes:
        name: of its model.  address: of the server.  usage: what was asked so far.
    """

    def __init__(self, client: ChatClient) -> None:
        self._client = client
        self.name, self.address = client.model, client.address
        self.usage = Usage()

    def label(self, evidence: Evidence) -> str:
        """A label; raises BadAnswer as every `Labeler`, and what `ChatClient.ask` raises."""
        return self.ask(
            ask_for_label(evidence), lambda answer: label_of(answer.text, cut_off=answer.cut_off)
        )

    def fitting(self, label: str, texts: Sequence[str]) -> set[int]:
        """The numbers of the texts that fit; raises as `label`."""
        return self.ask(
            ask_which_fit(label, texts), lambda answer: numbers_of(answer.text, len(texts))
        )

    def ask(self, messages: Messages, read: Callable[[ChatAnswer], T]) -> T:
        """What `read` makes of an answer; one that it rejects is asked for once more.

        Raises BadAnswer if that one is rejected, too, and what `ChatClient.ask` raises.
        """
        for left in range(_TRIES - 1, -1, -1):
            answer = self._client.ask(messages)
            self.usage.requests += 1
            self.usage.tokens_in += answer.tokens_in
            self.usage.tokens_out += answer.tokens_out
            self.usage.repeated = self._client.repeated
            try:
                return read(answer)
            except BadAnswer as error:
                self.usage.reject(str(error))
                if not left:
                    raise
                messages = [
                    *messages,
                    {"role": "assistant", "content": answer.text or "(nothing)"},
                    {"role": "user", "content": AGAIN},
                ]
        raise AssertionError


def connected(
    endpoint: str,
    *,
    model: str | None,
    api_key_env: str | None,
    timeout: float,
    answer_tokens: int,
    say: Callable[[str], None] = lambda sentence: None,
) -> ServerLabeler:
    """A server to ask, its key taken from an environment variable.

    Args:
        endpoint: address of the server.
        model: name of its model; None takes the only one.
        api_key_env: the variable; None sends no key.
        timeout: seconds that an answer may take.
        answer_tokens: most tokens of one.
        say: told of every wait.

    Raises:
        InputError: there is no such variable, or the server does not say which model to ask.
        EndpointError: it does not answer.
    """
    key = None
    if api_key_env is not None:
        key = os.environ.get(api_key_env, "").strip()
        if not key:
            raise InputError(
                f"api_key_env is {api_key_env}, but there is no such variable, or it is "
                "empty; set it to the key",
                field="api_key_env",
            )
    client = ChatClient(
        endpoint, model=model, key=key, timeout=timeout, answer_tokens=answer_tokens, say=say
    )
    return ServerLabeler(client)
