"""The text of a row, whatever its layout; what is wrong with a row is a status.

A row's text is its fields' texts joined by blank lines. Chat messages count as the texts of their
contents; roles are left out, since every row of a file would have them.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from ....sae.common.errors import InputError
from ....sae.common.files import nearest
from .json_files import shown
from .opening import open_files
from .row_file import Row

ROW_LAYOUTS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "conversations": ("conversations",),
    "instruction": ("instruction", "input", "context", "output", "response"),
    "chosen": ("prompt", "question", "chosen"),
    "prompt": ("prompt", "completion", "response"),
    "question": ("question", "answer", "response"),
    "query": ("query", "answer", "response"),
    "text": ("text",),
}
"""Fields that hold the text, in order; the field of a layout's name shows that a file has it."""

ANSWERS = ("output", "completion", "response", "answer", "chosen")
"""Fields that answer a prompt."""

_CHATS = ("messages", "conversations")
"""Fields that hold lists of messages."""

_MESSAGE_TEXTS = ("content", "value", "text")
ROLES = ("role", "from")
"""Fields of a message that say whose it is."""
MODELS = ("assistant", "gpt", "model", "bot")
"""Whose messages are the model's."""
_LISTS_IN_LISTS = 2
"""A list of messages whose contents are lists of parts; deeper ones hold no chat."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_NOWHERE = object()


class RowText(NamedTuple):
    """A row's text, or why there is none."""

    text: str
    """Half of a surrogate pair, which JSON can hold and no tokenizer takes, is U+FFFD in it."""
    status: str
    """ok, empty (no text), missing (none of the fields is there), or not_text (a field holds
    something that is no text)."""


@dataclass(frozen=True)
class TextFields:
    """Where the text of a file's rows lies."""

    layout: str
    """A name of ROW_LAYOUTS, or "given"."""
    fields: tuple[str, ...]
    """Names of fields; one in an object is `object.field`."""
    numbers: bool = True
    """Whether a number counts as text, as an answer does that is one."""
    answers: bool = True
    """Whether the last messages of a chat count if they are the model's."""

    def text_of(self, row: Row) -> RowText:
        """The row's text; never an error."""
        values = [field_value(row, field) for field in self.fields]
        if all(value is _NOWHERE for value in values):
            return RowText("", "missing")
        texts: list[str] = []
        for value in values:
            text = None if self._is_odd(value) else _text(value, answers=self.answers)
            if text is None:
                return RowText("", "not_text")
            if self.layout == "chosen" and any(texts) and text.startswith("\n\n".join(texts)):
                texts = []  # a whole conversation, which begins with the prompt
            texts += [text] if text.strip() else []
        text = _SURROGATE.sub("\ufffd", "\n\n".join(texts))
        return RowText(text, "ok" if text else "empty")

    def problem(self, row: Row, names: Callable[[], Iterable[str]]) -> str:
        """What is wrong with a row that has no text, for an error; empty if it has or is empty.

        `names` gives those of its fields, of which the row may hold a part.
        """
        status = self.text_of(row).status
        if status == "missing":
            return f"there is no field {self.fields[0]!r}; {_listed(self.fields[0], names())}"
        if status == "not_text":
            for field in self.fields:
                value = field_value(row, field)
                if self._is_odd(value) or _text(value, answers=True) is None:
                    return f"the field {field!r} holds {shown(value)} where text is needed"
        return ""

    def described(self) -> dict[str, Any]:
        """For a summary."""
        return {"layout": self.layout, "fields": list(self.fields)}

    def _is_odd(self, value: object) -> bool:
        """Whether the value, though it may be text elsewhere, is none in this layout."""
        if self.layout in _CHATS:
            return isinstance(value, str)
        return not self.numbers and isinstance(value, int | float)


def find_text_fields(
    columns: Mapping[str, int],
    given: str | None,
    where: str,
    flag: str,
    *,
    prefer: str | None = None,
    prompts: bool = False,
) -> TextFields:
    """The fields asked for, or those of the layout that most rows have.

    Args:
        columns: the file's column names and how many rows have each.
        given: fields joined by `+`, or None to detect the layout.
        where: the file, for an error.
        flag: the option that chooses, for an error.
        prefer: the layout to take if any row has it.
        prompts: the fields that are answered, without the answers.

    Raises:
        InputError: a field is not there, or no layout fits; the columns are listed.
    """
    if given is not None:
        fields = tuple(given.split("+"))
        for field in fields:
            require_column(field, columns, where)
        return TextFields("given", fields, answers=not prompts)
    n_rows, place = max((columns.get(name, 0), -place) for place, name in enumerate(ROW_LAYOUTS))
    layout = prefer if prefer in columns else list(ROW_LAYOUTS)[-place]
    if n_rows == 0 and prefer not in columns:
        raise InputError(
            f"{where} has none of the fields {', '.join(ROW_LAYOUTS)}; choose among its columns "
            f"with {flag}: {', '.join(columns)}"
        )
    fields = tuple(
        field
        for field in ROW_LAYOUTS[cast(str, layout)]
        if field in columns and not (prompts and field in ANSWERS)
    )
    if not fields:
        raise InputError(
            f"{where} has answers without prompts; choose among its columns with {flag}: "
            f"{', '.join(columns)}"
        )
    return TextFields(cast(str, layout), fields, answers=not prompts)


def fields_of_texts(
    files: Sequence[Path],
    given: str | None,
    where: str,
    *,
    prefer: str = "text",
    prompts: bool = False,
) -> TextFields:
    """The fields of the texts in files: as `fields_of_columns`, from the columns of their first
    rows.

    Raises InputError if no layout fits, or a file cannot be read.
    """
    columns = dict[str, int]()
    for file in files if given is None else ():
        if columns := open_files([file]).first_columns(file):
            break
    return fields_of_columns(columns, given, where, prefer=prefer, prompts=prompts)


def fields_of_columns(
    columns: Mapping[str, int],
    given: str | None,
    where: str,
    *,
    prefer: str = "text",
    prompts: bool = False,
) -> TextFields:
    """The fields asked for, or those of the layout that the columns have; `text` without columns.

    A number is text only beside other fields. Fields that are asked for are not looked for, since
    a row that has none of them is named when it is read. The other arguments are those of
    `find_text_fields`.

    Raises InputError if no layout fits.
    """
    if given is not None:
        found = TextFields("given", tuple(given.split("+")))
    elif columns:
        found = find_text_fields(
            columns, None, where, "--text-field", prefer=prefer, prompts=prompts
        )
    else:
        found = TextFields("text", ("text",))
    return replace(found, numbers=len(found.fields) > 1, answers=not prompts)


def require_column(name: str, columns: Mapping[str, int], where: str) -> None:
    """Raise an InputError that lists the columns, the nearest first, unless the name is one.

    `column.field` is one if the column holds something that is not known closer.
    """
    if not _is_known(name, columns):
        listed = ", ".join(_nearest_first(name, columns)) or "none"
        raise InputError(f"{where} has no column {name!r}; its columns are {listed}")


def _is_known(name: str, columns: Mapping[str, int]) -> bool:
    parent = name.rpartition(".")[0]
    return name in columns or (
        bool(parent)
        and _is_known(parent, columns)
        and not any(column.startswith(f"{parent}.") for column in columns)
    )


def _nearest_first(name: str, names: Iterable[str]) -> list[str]:
    names = list(names)
    near = nearest(name, names)
    return [*near, *(other for other in names if other not in near)]


def _listed(field: str, names: Iterable[str]) -> str:
    listed = _nearest_first(field, names)
    return f"its fields are {', '.join(listed)}" if listed else "it has no field at all"


def field_value(row: Row, field: str) -> object:
    """What a field holds; for `list.field` the list of what that field holds in its objects."""
    if field in row:
        return row[field]
    head, dot, rest = field.partition(".")
    if not dot or head not in row:
        return _NOWHERE
    holder: object = row[head]
    if isinstance(holder, dict):
        return field_value(cast(Row, holder), rest)
    if isinstance(holder, list):
        entries = cast(list[object], holder)
        values = [
            field_value(cast(Row, entry), rest) for entry in entries if isinstance(entry, dict)
        ]
        return [value for value in values if value is not _NOWHERE]
    return None if holder is None else _NOWHERE


def message_text(value: object) -> str | None:
    """The text of a field, or of a list of messages; None where it is none."""
    text = _text(value, answers=True)
    return None if text is None else _SURROGATE.sub("\ufffd", text)


def _text(value: object, depth: int = 0, *, answers: bool) -> str | None:
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
            return _messages(cast(list[object], value), depth + 1, answers=answers)
        case _:
            return "" if value is _NOWHERE else None


def _messages(messages: list[object], depth: int, *, answers: bool) -> str | None:
    """The texts of chat messages, or of the parts of one message, in order."""
    texts: list[str] = []
    kept = len(messages)
    while not answers and kept and _is_of_model(messages[kept - 1]):
        kept -= 1
    for message in messages[:kept]:
        if isinstance(message, dict):
            fields = cast(Row, message)
            found = next((fields[name] for name in _MESSAGE_TEXTS if name in fields), None)
            text = _text(found, depth, answers=True)
        else:
            text = message if isinstance(message, str) else None
        if text is None:
            return None
        texts.append(text)
    return "\n\n".join(text for text in texts if text.strip())


def _is_of_model(message: object) -> bool:
    if not isinstance(message, dict):
        return False
    fields = cast(Row, message)
    return any(fields.get(name) in MODELS for name in ROLES)
