"""JSON Lines and JSON arrays; rows stay as they are written, byte for byte."""

import codecs
import io
import json
import re
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from ....sae.common.errors import InputError
from ....sae.common.files import atomic_file
from .formats import LINES, created, opened, reading
from .row_file import BrokenRow, BrokenRows, Column, Overview, Row, RowFile, columns_of

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")


def is_array(path: Path) -> bool:
    """Whether a JSON file begins as an array."""
    with reading(path), opened(path) as file:
        text = file.read(_CHUNK).removeprefix(_BYTE_ORDER_MARK)
        while text.isspace():
            text = file.read(_CHUNK)
    return text.lstrip().startswith(b"[")


class JsonFile(RowFile):
    """Files of JSON objects as bytes, which subclasses divide and join."""

    @abstractmethod
    def records(self, file: Path) -> Iterator[tuple[str, bytes]]:
        """The bytes of each row, with where it stands in the file."""

    def places(
        self, file: Path, fields: Collection[str] | None = None
    ) -> Iterator[tuple[str, Row | BrokenRow]]:
        for place, record in self.records(file):
            yield place, _parsed(record)

    def overview(self) -> Overview:
        n_rows, columns, broken = 0, dict[str, int](), BrokenRows()
        for file in self.files:
            for place, row in self.places(file):
                if isinstance(row, BrokenRow):
                    broken.add(f"{file}, {place}", row)
                    continue
                n_rows += 1
                for name in columns_of(row):
                    columns[name] = columns.get(name, 0) + 1
        if not self.skip_bad_rows:
            broken.require_none()
        return Overview(n_rows, columns, tuple(broken.places))

    def good_records(self) -> Iterator[bytes]:
        """The bytes of the rows that can be read."""
        for file in self.files:
            for _, record in self.records(file):
                if not (self.skip_bad_rows and isinstance(_parsed(record), BrokenRow)):
                    yield record

    def written(
        self, chosen: Sequence[int] | None, added: Mapping[str, Column] | None
    ) -> Iterator[bytes]:
        """The rows to write, with what is added to each."""
        wanted = None if chosen is None else set(chosen)
        for number, record in enumerate(self.good_records()):
            if wanted is None or number in wanted:
                values = {name: column.values[number] for name, column in (added or {}).items()}
                yield _with_values(record, values)


class JsonLinesFile(JsonFile):
    """One JSON object a line, UTF-8; blank lines are no rows."""

    out_endings = LINES

    def records(self, file: Path) -> Iterator[tuple[str, bytes]]:
        with reading(file), opened(file) as content:
            for number, raw in enumerate(content, start=1):
                line = raw.removeprefix(_BYTE_ORDER_MARK) if number == 1 else raw
                if line := line.strip():
                    yield f"line {number}", line

    def write(
        self,
        path: Path,
        *,
        chosen: Sequence[int] | None = None,
        added: Mapping[str, Column] | None = None,
        replace: bool = True,
    ) -> None:
        with (
            atomic_file(path, replace=replace) as temporary,
            created(temporary, path.name) as file,
        ):
            for record in self.written(chosen, added):
                file.write(record + b"\n")


class JsonArrayFile(JsonFile):
    """One array of JSON objects, read an entry at a time; the entries stay as they are written."""

    out_endings = (".json",)

    def records(self, file: Path) -> Iterator[tuple[str, bytes]]:
        with reading(file), opened(file) as content:
            for number, text in enumerate(_entries(content, file), start=1):
                yield f"entry {number}", text.encode()

    def write(
        self,
        path: Path,
        *,
        chosen: Sequence[int] | None = None,
        added: Mapping[str, Column] | None = None,
        replace: bool = True,
    ) -> None:
        with (
            atomic_file(path, replace=replace) as temporary,
            created(temporary, path.name) as file,
        ):
            before = b"[\n"
            for record in self.written(chosen, added):
                file.write(before + record)
                before = b",\n"
            file.write(b"[]\n" if before == b"[\n" else b"\n]\n")


def _entries(content: io.BufferedIOBase, path: Path) -> Iterator[str]:
    """The text of each entry of an array; of the file only what is needed is held."""
    source = codecs.getreader("utf-8-sig")(content)
    text, number = source.read(_CHUNK), 0
    while text.isspace():
        text = source.read(_CHUNK)
    at = _after_space(text, 0) + 1  # behind the bracket that `is_array` has seen
    while True:
        try:
            found = _entry(text, at, first=number == 0)
        except (ValueError, IndexError, RecursionError) as error:
            if more := source.read(max(_CHUNK, len(text))):
                text, at = text[at:] + more, 0
                continue
            problem = str(error) if not isinstance(error, IndexError) else "it ends too early"
            raise InputError(
                f"{path}, entry {number + 1} is not valid JSON ({problem}); mend it: one object a "
                "line, or one array of them"
            ) from None
        if found is None:
            break
        number += 1
        start, end, at = found
        yield text[start:end]
        if at > _CHUNK:
            text, at = text[at:], 0
    rest = text[_after_space(text, at) + 1 :] + source.read()
    if rest.strip():
        raise InputError(
            f"{path} goes on behind its array; mend it: one object a line, or one array of them"
        )


def _entry(text: str, at: int, *, first: bool) -> tuple[int, int, int] | None:
    """Where the next entry begins and ends, and what follows it; None at the array's end.

    Raises IndexError or ValueError if the text has no more, or is not valid.
    """
    start = _after_space(text, at)
    if not first:
        if text[start] == "]":
            return None
        if text[start] != ",":
            raise ValueError(f"a comma is missing before {text[start : start + 20]!r}")
        start = _after_space(text, start + 1)
    elif text[start] == "]":
        return None
    _, end = _DECODER.raw_decode(text, start)
    _ = text[_after_space(text, end)]  # so that a number is whole
    return start, end, end


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


_DECODER = json.JSONDecoder()


def _parsed(record: bytes) -> Row | BrokenRow:
    try:
        value: object = json.loads(record.decode())
    except UnicodeDecodeError as error:
        byte = record[error.start]
        return BrokenRow(f"is not UTF-8 (byte 0x{byte:02x})", "convert it to UTF-8")
    except (ValueError, RecursionError) as error:
        return BrokenRow(f"is not valid JSON ({error})", "mend or remove it")
    if not isinstance(value, dict):
        return BrokenRow(
            f"holds {shown(value)} where an object such as {{'text': ...}} is needed",
            "mend or remove it",
        )
    return cast(Row, value)


def shown(value: object) -> str:
    """A value in few characters, for a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _with_values(record: bytes, values: Mapping[str, object]) -> bytes:
    """The JSON object with more keys at its end; what stands in it stays byte for byte."""
    if not values:
        return record
    own = record.removesuffix(b"}").rstrip()
    added = json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    return own + (b"" if own == b"{" else b", ") + added.removeprefix(b"{")
