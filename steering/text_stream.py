"""The text of a continuation as its tokens come, up to a stop string."""

from collections.abc import Sequence
from typing import Any, cast

from ..sae.language_model.model import LanguageModel

_BEFORE = 5
"""Tokens of the prompt that are decoded with the first ones, for the space between them."""


class TextStream:
    """Turns tokens into text a piece at a time; what was given is never taken back.

    A character is given when its bytes are complete, and the beginning of a stop string when it is
    clear that it is none. The cost of a token does not grow with the text.
    """

    def __init__(self, model: LanguageModel, prompt: Sequence[int], stop: Sequence[str]) -> None:
        """Take the prompt's tokens, and the strings before whose first the text ends."""
        self._tokenizer = cast(Any, model.tokenizer)
        self._special = set(self._tokenizer.all_special_ids)
        self._stop = tuple(stop)
        self._ids = list(prompt[-_BEFORE:])
        self._decoded_from, self._decoded_to = 0, len(self._ids)
        self._held: list[tuple[str, str]] = []
        self.stopped = False
        """Whether a stop string has come."""

    def add(self, token: int) -> str:
        """The text that is certain with this token."""
        self._ids.append(token)
        before = self._decode(self._decoded_from, self._decoded_to)
        both = self._decode(self._decoded_from, len(self._ids))
        if both.endswith("\ufffd") or len(both) <= len(before):
            return ""
        self._hold(both[len(before) :])
        return self._certain()

    def finish(self) -> str:
        """What is left when no token comes any more, without a character of incomplete bytes."""
        if self.stopped:
            return ""
        if self._decoded_to < len(self._ids):
            before = self._decode(self._decoded_from, self._decoded_to)
            both = self._decode(self._decoded_from, len(self._ids))
            self._hold(both[len(before) :].rstrip("\ufffd"))
        text = self._certain()
        return text if self.stopped else text + "".join(kept for _, kept in self._held)

    def _hold(self, spelled: str) -> None:
        """Keep the text of the tokens from `_decoded_to` on until it is certain."""
        kept = spelled
        if self._special.intersection(self._ids[self._decoded_to :]):
            before = self._decode(self._decoded_from, self._decoded_to, skip_special_tokens=True)
            both = self._decode(self._decoded_from, len(self._ids), skip_special_tokens=True)
            kept = both[len(before) :].rstrip("\ufffd")
        self._held.append((spelled, kept))
        self._decoded_from, self._decoded_to = self._decoded_to, len(self._ids)

    def _certain(self) -> str:
        """Give away what no stop string can begin in; up to one if it is there."""
        text = "".join(spelled for spelled, _ in self._held)
        starts = [text.find(stop) for stop in self._stop if stop in text]
        self.stopped = bool(starts)
        n_certain = min(starts) if starts else len(text) - self._beginning_of_stop(text)
        given: list[str] = []
        while self._held and n_certain >= len(self._held[0][0]):
            spelled, kept = self._held.pop(0)
            n_certain -= len(spelled)
            given.append(kept)
        if self._held and n_certain and self._held[0][0] == self._held[0][1]:
            spelled, _ = self._held[0]
            given.append(spelled[:n_certain])
            self._held[0] = (spelled[n_certain:], spelled[n_certain:])
        if self.stopped:
            self._held.clear()
        return "".join(given)

    def _beginning_of_stop(self, text: str) -> int:
        """Length of the longest end of the text with which a stop string begins."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0

    def _decode(self, start: int, end: int, *, skip_special_tokens: bool = False) -> str:
        return self._tokenizer.decode(
            self._ids[start:end],
            skip_special_tokens=skip_special_tokens,
            clean_up_tokenization_spaces=False,
        )
