"""A row as the turns of a chat: its messages, or its prompt and the answer to it."""

from collections.abc import Mapping, Sequence
from typing import cast

from .row_file import Row
from .row_text import ANSWERS, MODELS, ROLES, TextFields, field_value, message_text

Turns = tuple[Mapping[str, str], ...]
"""Each with `role` and `content`, as chat templates take them."""

_NAMES = {name: "assistant" for name in MODELS} | {"human": "user", "prompter": "user"}
"""Roles under other names than templates have."""


class ChatText(str):
    """The plain text of a row, with its turns."""

    turns: Turns

    def __new__(cls, text: str, turns: Turns) -> "ChatText":
        chat = super().__new__(cls, text)
        chat.turns = turns
        return chat


def chat_turns(fields: TextFields, row: Row) -> Turns | str:
    """The turns of a row whose text is in order, or what is wrong with it as a chat, in a clause.

    A list of messages is a chat. Other fields are one turn each: of the model those that answer a
    prompt, of the user the rest; neighbors of one role are one turn.

    Args:
        fields: where the text lies.
        row: as its file has it.
    """
    turns: list[Mapping[str, str]] = []
    for field in fields.fields:
        value = field_value(row, field)
        if isinstance(value, list):
            messages = cast(Sequence[object], value)
            found = _messages(messages, field)
            if isinstance(found, str):
                return found
            if found and turns and found[0] == turns[0]:
                turns = []  # a whole conversation, which begins with the prompt
            turns += found
            continue
        text = message_text(value)
        if not text or not text.strip():
            continue
        role = "assistant" if field.rpartition(".")[2] in ANSWERS else "user"
        said = turns[0]["content"] if turns else ""
        if role == "assistant" and said and text.startswith(said):
            text = text[len(said) :].lstrip()  # the answer repeats the prompt
        if turns and turns[-1]["role"] == role:
            turns[-1] = {"role": role, "content": f"{turns[-1]['content']}\n\n{text}"}
        else:
            turns.append({"role": role, "content": text})
    return tuple(turns)


def _messages(messages: Sequence[object], field: str) -> list[Mapping[str, str]] | str:
    turns: list[Mapping[str, str]] = []
    for number, message in enumerate(messages, start=1):
        held: Row = cast(Row, message) if isinstance(message, dict) else {}
        role = next((held[name] for name in ROLES if isinstance(held.get(name), str)), None)
        if role is None:
            return f"message {number} of the field {field!r} has no {' or '.join(ROLES)}"
        name = str(role).lower()
        turns.append({"role": _NAMES.get(name, name), "content": message_text([held]) or ""})
    return turns
