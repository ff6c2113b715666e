"""The text of a row of instruction data, whatever the layout; what is wrong with a row is a status.

A row's text is its fields' texts joined by blank lines. Chat messages count as the texts of their
contents; roles are left out, since every row of a file would have them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from ...sae.errors import InputError
from ...sae.files import nearest

Row = Mapping[str, Any]

LAYOUTS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "conversations": ("conversations",),
    "instruction": ("instruction", "input", "context", "output", "response"),
    "prompt": ("prompt", "completion", "response"),
    "question": ("question", "answer"),
    "text": ("text",),
}
"""Fields that hold the text, in order; the first one shows which layout a file has."""

_MESSAGE_TEXTS = ("content", "value", "text")
_LISTS_IN_LISTS = 2
"""A list of messages whose contents are lists of parts; deeper ones hold no chat."""


class RowText(NamedTuple):
    """A row's text, or why there is none."""

    text: str
    status: str
    """ok, empty (no text), missing (none of the fields is there), or not_text (a field holds
    something that is no text)."""


@dataclass(frozen=True)
class TextFields:
    """Where the text of a file's rows lies."""

    layout: str
    """A name of LAYOUTS, or "given"."""
    fields: tuple[str, ...]

    def text_of(self, row: Row) -> RowText:
        """The row's text; never an error."""
        if not any(field in row for field in self.fields):
            return RowText("", "missing")
        texts: list[str] = []
        for field in self.fields:
            text = _text(row.get(field))
            if text is None:
                return RowText("", "not_text")
            texts.append(text)
        text = "\n\n".join(text for text in texts if text.strip())
        return RowText(text, "ok" if text else "empty")

    def described(self) -> dict[str, Any]:
        """For a summary."""
        return {"layout": self.layout, "fields": list(self.fields)}


def find_text_fields(
    columns: Mapping[str, int], given: str | None, where: str, flag: str
) -> TextFields:
    """The fields asked for, or those of the layout that most rows have.

    Args:
        columns: the file's column names and how many rows have each.
        given: fields joined by `+`, or None to detect the layout.
        where: the file, for an error.
        flag: the option that chooses, for an error.

    Raises:
        InputError: a field is not there, or no layout fits; the columns are listed.
    """
    if given is not None:
        fields = tuple(given.split("+"))
        for field in fields:
            require_column(field, columns, where)
        return TextFields("given", fields)
    fits = [(columns.get(fields[0], 0), -place) for place, fields in enumerate(LAYOUTS.values())]
    n_rows, place = max(fits)
    if n_rows == 0:
        raise InputError(
            f"{where} has none of the fields {', '.join(f[0] for f in LAYOUTS.values())}; choose "
            f"among its columns with {flag}: {', '.join(columns)}"
        )
    layout = list(LAYOUTS)[-place]
    return TextFields(layout, tuple(field for field in LAYOUTS[layout] if field in columns))


def require_column(name: str, columns: Mapping[str, int], where: str) -> None:
    """Raise an InputError that lists the columns, the nearest first, unless the name is one."""
    if name in columns:
        return
    near = nearest(name, columns)
    listed = [*near, *(column for column in columns if column not in near)]
    raise InputError(
        f"{where} has no column {name!r}; its columns are {', '.join(listed) or 'none'}"
    )


def _text(value: object, depth: int = 0) -> str | None:
    """A field's value as text; None where it is none."""
    match value:
        case None:
            return ""
        case str():
            return value
        case float():
            return str(value) if math.isfinite(value) else None
        case bool() | int():
            return str(value)
        case list() if depth < _LISTS_IN_LISTS:
            return _messages(cast(list[object], value), depth + 1)
        case _:
            return None


def _messages(messages: list[object], depth: int) -> str | None:
    """The texts of chat messages, or of the parts of one message, in order."""
    texts: list[str] = []
    for message in messages:
        if isinstance(message, dict):
            fields = cast(Row, message)
            found = next((fields[name] for name in _MESSAGE_TEXTS if name in fields), None)
            text = _text(found, depth)
        else:
            text = message if isinstance(message, str) else None
        if text is None:
            return None
        texts.append(text)
    return "\n\n".join(text for text in texts if text.strip())
