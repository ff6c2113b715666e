"""Documents of one local file."""

from collections.abc import Iterator
from pathlib import Path

from ...sae.common.errors import InputError
from .row_files.chat_rows import ChatText, chat_turns
from .row_files.formats import TEXT, file_format
from .row_files.opening import open_files
from .row_files.row_file import BrokenRow, Row, RowFile
from .row_files.row_text import TextFields
from .row_files.text_files import text_documents

SKIP = "pass over such rows with --skip-bad-rows"
"""Remedy for a row without text, where it is read for a corpus."""


class BadRow(str):
    """The empty text of a row that has none because something is wrong with it."""

    problem: str
    """Where it stands and what is wrong."""

    def __new__(cls, problem: str) -> "BadRow":
        row = super().__new__(cls)
        row.problem = problem
        return row


def read_texts(
    path: Path,
    fields: TextFields,
    *,
    chat: bool = False,
    skip_bad_rows: bool = False,
    remedy: str = SKIP,
) -> Iterator[str]:
    """The text of each document of a file, in order; empty where a row has null or no text.

    A row is a document. A text file is one, or, if it is longer than 16,384 characters, several
    that end at a blank line (failing that, at a line end or a space).

    Args:
        path: a file with one of the known endings.
        fields: where the text lies in a row.
        chat: give a `ChatText` for a row that holds text, which must have turns.
        skip_bad_rows: give a `BadRow` for a row that cannot be read or holds no text.
        remedy: end of the error about such a row.

    Raises:
        InputError: the file is damaged or not what its name says, or a row lacks the field or
            holds something other than text there; the message names file and line or row.
    """
    if file_format(path) == TEXT:
        yield from text_documents(path)
        return
    yield from read_rows_of(
        open_files([path]), fields, chat=chat, skip_bad_rows=skip_bad_rows, remedy=remedy
    )


def read_rows_of(
    rows: RowFile,
    fields: TextFields,
    *,
    chat: bool = False,
    skip_bad_rows: bool = False,
    remedy: str = SKIP,
) -> Iterator[str]:
    """The text of each row, as in `read_texts`; a text file has a row on each line.

    `remedy` is the end of the error about a row without text.
    """
    if rows.plain_text:
        fields = TextFields("text", ("text",))
    for file in rows.files:
        for place, row in rows.places(file, fields.fields):
            if isinstance(row, BrokenRow):
                problem, mended = f"{file}, {place} {row.problem}", row.remedy
            elif said := fields.problem(row, lambda f=file, r=row: rows.field_names(f, r)):
                problem, mended = f"{file}, {place}: {said}", "choose with --text-field"
            else:
                text = document_of(fields, row, chat=chat)
                if not isinstance(text, BadRow):
                    yield text
                    continue
                problem, mended = f"{file}, {place}: {text.problem}", "leave --chat out"
            if not skip_bad_rows:
                raise InputError(f"{problem}; {mended}, or {remedy}")
            yield BadRow(problem)


def document_of(fields: TextFields, row: Row, *, chat: bool) -> str:
    """The text of a row without a problem: for a chat a `ChatText`, or a `BadRow` whose problem, a
    clause without a place, says why its turns cannot be told."""
    text = fields.text_of(row).text
    if not chat or not text:
        return text
    turns = chat_turns(fields, row)
    return BadRow(turns) if isinstance(turns, str) else ChatText(text, turns)
