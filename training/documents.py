"""Documents of one local file, read through `datasets` as a stream: no copy in Arrow is made.

JSON Lines are read as lines of text and parsed here, because the JSON builder of `datasets` infers
column types chunk by chunk: with one number among the texts it hands out quoted texts and numbers
as text, without a word (datasets 5.2).
"""

import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from lzma import LZMAError
from pathlib import Path
from typing import Any, cast

from ..sae.errors import InputError
from ..sae.files import nearest

Row = dict[str, Any]

_SURROGATE = re.compile("[\ud800-\udfff]")

_CHUNK_CHARACTERS = 1 << 20
"""Text read at a time: the 10 MB that datasets takes need four times the memory and are slower."""

COMPRESSIONS = (".gz", ".bz2", ".xz")
"""Endings that a text or JSON file may have behind its own."""

FORMATS = (".jsonl", ".json", ".parquet", ".txt")
"""The endings of the files that can be read."""

PIECE_CHARACTERS = 16_384
"""A longer .txt file is several documents, so that a book has a held-out part as well."""


def library(name: str) -> Any:
    """A slow or untyped library, imported when it is first used."""
    return import_module(name)


def file_format(path: Path) -> str | None:
    """Which of FORMATS the file has by its name; None if it is none of them."""
    name = path.name.lower()
    for compression in COMPRESSIONS:
        if name.endswith(compression):
            name = name.removesuffix(compression)
            return next((f for f in FORMATS if name.endswith(f) and f != ".parquet"), None)
    return next((f for f in FORMATS if name.endswith(f)), None)


def read_texts(path: Path, fields: tuple[str, ...]) -> Iterator[str]:
    """The text of each document of a file, in order; empty where a row has null or no text.

    A row of a .jsonl, .json or .parquet file is a document, its text the `fields` joined by a
    blank line. A .txt file is one document, or, if it is longer than PIECE_CHARACTERS, several that
    end at a blank line (failing that, at a line end or a space).

    Raises:
        InputError: the file is not what its name says, is not UTF-8, or a row lacks a field or
            holds something other than text there; the message names file and line or row.
    """
    with _reading(path):
        if file_format(path) == ".txt":
            yield from pieces(row["text"] for row in _stream("text", path, keep_linebreaks=True))
        elif file_format(path) == ".parquet":
            for number, row in enumerate(_parquet_rows(path, fields), start=1):
                yield text_of(row, fields, f"{path}, row {number}")
        else:
            for where, row in _json_rows(path):
                yield text_of(row, fields, where)


def text_of(row: Row, fields: tuple[str, ...], where: str) -> str:
    """The text of a row: its `fields` joined by a blank line, without those that are null or empty.

    Half of a surrogate pair, which JSON can hold and no tokenizer takes, becomes U+FFFD.

    Raises InputError naming the row as `where` says and, for a missing field, the nearest ones.
    """
    texts: list[str] = []
    for field in fields:
        require_field(field, row, where)
        value = row[field]
        if value is not None and not isinstance(value, str):
            raise InputError(
                f"{where}: the field {field!r} holds {_shown(value)} where text is needed; "
                "name the field of the text with --text-field, or mend the row"
            )
        texts.append(value or "")
    return _SURROGATE.sub("\ufffd", "\n\n".join(text for text in texts if text))


def require_field(field: str, names: Iterable[str], where: str) -> None:
    """Raise InputError unless `field` is one of `names`; it lists them, the nearest first."""
    names = list(names)
    if field in names:
        return
    near = nearest(field, names)
    listed = near + [name for name in names if name not in near]
    there = f"its fields are {', '.join(listed)}" if listed else "it has no field at all"
    raise InputError(f"{where}: there is no field {field!r}; {there}: choose with --text-field")


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


def _shorter_lines(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        start = 0
        while len(line) - start > PIECE_CHARACTERS:
            space = line.rfind(" ", start, start + PIECE_CHARACTERS)
            end = space + 1 if space > start else start + PIECE_CHARACTERS
            yield line[start:end]
            start = end
        yield line[start:]


def _json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """The objects of a file of JSON Lines, or of one array, each with where it stands."""
    lines = enumerate((row["text"] for row in _stream("text", path)), start=1)
    for number, line in lines:
        if line.strip():
            if line.lstrip().startswith("["):
                rest = "\n".join([line, *(text for _, text in lines)])
                yield from _array_rows(path, rest)
                return
            where = f"{path}, line {number}"
            yield where, _object(_parsed(line, where), where)


def _array_rows(path: Path, text: str) -> Iterator[tuple[str, Row]]:
    for number, value in enumerate(cast(list[object], _parsed(text, str(path))), start=1):
        where = f"{path}, entry {number}"
        yield where, _object(value, where)


def _parsed(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where} is not valid JSON ({error}); mend it: one object a line, or one array of them"
        ) from None


def _object(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise InputError(
            f"{where} holds {_shown(value)} where an object such as {{'text': ...}} is needed; "
            "mend it, or give the text as a .txt file"
        )
    return cast(Row, value)


def _parquet_rows(path: Path, fields: tuple[str, ...]) -> Iterator[Row]:
    names = cast(list[str], library("pyarrow.parquet").read_schema(path).names)
    for field in fields:
        require_field(field, names, str(path))
    yield from _stream("parquet", path, columns=list(fields))


def _stream(builder: str, path: Path, **options: object) -> Iterator[Row]:
    """The rows of one file through a builder of `datasets`, without a trace in its cache."""
    if builder == "text":
        options |= {"encoding": "utf-8-sig", "chunksize": _CHUNK_CHARACTERS}
    # datasets leaves lock files in its cache folder even when it streams, and in a path it gives
    # "*", "[" and "::" a meaning.
    folder = tempfile.mkdtemp()
    try:
        link = Path(folder, "corpus")
        link.symlink_to(path.resolve())
        yield from library("datasets").load_dataset(
            builder,
            data_files=[str(link)],
            split="train",
            streaming=True,
            cache_dir=folder,
            **options,
        )
    finally:
        shutil.rmtree(folder)


@contextmanager
def _reading(path: Path) -> Generator[None]:
    """Turn what a damaged file raises into a sentence that names it."""
    arrow_invalid = cast(type[Exception], library("pyarrow").ArrowInvalid)
    try:
        yield
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(
            f"{path} is not UTF-8 text (byte 0x{byte:02x}); convert it to UTF-8"
        ) from None
    except (EOFError, zlib.error, LZMAError, arrow_invalid) as error:
        raise InputError(f"{path} is damaged ({error}); fetch or write it again") from None
    except OSError as error:
        # datasets reads through a link, which is all that its own message names.
        reason = (error.strerror or error) if path.exists() else "it is not there any more"
        raise InputError(f"{path} cannot be read ({reason}); check the file") from None


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."
