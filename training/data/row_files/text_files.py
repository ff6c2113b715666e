"""Text files: one document, or several where it is long; or a text on each line."""

import io
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from ....sae.common.errors import InputError
from .formats import LINES, opened_text, reading
from .json_files import JsonLinesFile
from .row_file import BrokenRow, Row

PIECE_CHARACTERS = 16_384
"""A longer text file is several documents, so that a book has a held-out part as well."""

_CHUNK_CHARACTERS = 1 << 16


def text_documents(path: Path) -> Iterator[str]:
    """The documents of a text file: see `pieces`. Never more than a piece or two is held.

    Raises InputError if it is not UTF-8, holds a NUL byte, or is damaged or unreadable.
    """
    with reading(path), opened_text(path) as content:
        yield from pieces(_lines(content, path))


def pieces(lines: Iterable[str]) -> Iterator[str]:
    """Join lines (with their line ends) into documents of about PIECE_CHARACTERS, losing nothing.

    A document ends at the first blank line after that many characters, and at the latest at twice
    as many: at a line end, or inside a longer line at a space.
    """
    held: list[str] = []
    size = 0
    for line in _shorter_lines(lines):
        if held and size + len(line) > 2 * PIECE_CHARACTERS:
            yield "".join(held)
            held, size = [], 0
        held.append(line)
        size += len(line)
        if size >= PIECE_CHARACTERS and not line.strip():
            yield "".join(held)
            held, size = [], 0
    if held:
        yield "".join(held)


class TextLinesFile(JsonLinesFile):
    """A text on each line, as a row with the field `text`; written as JSON Lines.

    Blank lines are no rows.
    """

    out_endings = LINES
    plain_text = True

    def records(self, file: Path) -> Iterator[tuple[str, bytes]]:
        for place, text in self._texts(file):
            yield place, json.dumps({"text": text}, ensure_ascii=False).encode()

    def places(
        self, file: Path, fields: Collection[str] | None = None
    ) -> Iterator[tuple[str, Row | BrokenRow]]:
        for place, text in self._texts(file):
            yield place, {"text": text}

    def _texts(self, file: Path) -> Iterator[tuple[str, str]]:
        with reading(file), opened_text(file) as content:
            # Not splitlines, which also cuts at form feeds and other marks inside a text.
            for number, line in enumerate(content, start=1):
                _require_no_nul(line, number, file)
                if line.strip():
                    yield f"line {number}", line.removesuffix("\n")


def _lines(content: io.TextIOWrapper, path: Path) -> Iterator[str]:
    """Lines with their ends; parts of those that are longer than a chunk."""
    number = 1
    while line := content.readline(_CHUNK_CHARACTERS):
        _require_no_nul(line, number, path)
        yield line
        number += line.endswith("\n")


def _require_no_nul(line: str, number: int, path: Path) -> None:
    if "\0" in line:
        raise InputError(
            f"{path}, line {number} holds a NUL byte, so the file is no UTF-8 text; convert it, or "
            "give a file of text"
        )


def _shorter_lines(lines: Iterable[str]) -> Iterator[str]:
    """Lines, and parts of those that are longer than PIECE_CHARACTERS, which may come in parts."""
    rest = ""
    for part in lines:
        line, start = rest + part, 0
        while len(line) - start > PIECE_CHARACTERS:
            space = line.rfind(" ", start, start + PIECE_CHARACTERS)
            end = space + 1 if space > start else start + PIECE_CHARACTERS
            yield line[start:end]
            start = end
        rest = line[start:]
        if rest.endswith("\n"):
            yield rest
            rest = ""
    if rest:
        yield rest
