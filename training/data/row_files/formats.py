"""What files are by their names, and their bytes whatever they are compressed with."""

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, cast

from ....sae.common.errors import InputError

TEXT = ".txt"
LINES = (".jsonl", ".ndjson", ".json")
TABLES = (".csv", ".tsv")
COLUMNS = (".parquet", ".arrow", ".feather")
FORMATS = (*LINES, *TABLES, *COLUMNS, TEXT)
"""The endings of the files that can be read."""

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
"""Endings that a file may have behind its own, unless it is one of COLUMNS."""

_MAGIC = {
    ".gz": re.compile(rb"\x1f\x8b"),
    ".bz2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
    ".xz": re.compile(rb"\xfd7zXZ\x00"),
    ".zst": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
}
"""How compressed files begin; a text hardly ever does. A .zst may begin with a frame to skip."""

_MAGIC_BYTES = 10


def library(name: str) -> Any:
    """A slow or untyped library, imported when it is first used."""
    return import_module(name)


def file_format(path: Path) -> str | None:
    """Which of FORMATS the file has by its name; None if it is none of them."""
    name = path.name.lower()
    for compression in COMPRESSIONS:
        if name.endswith(compression):
            name = name.removesuffix(compression)
            return next((f for f in FORMATS if name.endswith(f) and f not in COLUMNS), None)
    return next((f for f in FORMATS if name.endswith(f)), None)


def endings() -> str:
    """The endings that are read, for a message."""
    return (
        f"{', '.join(FORMATS)} (all but {', '.join(COLUMNS)} also with {', '.join(COMPRESSIONS)})"
    )


@contextmanager
def opened(path: Path) -> Generator[io.BufferedIOBase]:
    """The content of a file, decompressed if its first bytes say so, whatever its name."""
    with open(path, "rb") as raw:
        compression = _compression(raw.read(_MAGIC_BYTES))
        raw.seek(0)
        if compression is None:
            yield raw
        else:
            with _DECOMPRESSED[compression](raw) as content:
                yield content


@contextmanager
def opened_text(path: Path, newline: str | None = None) -> Generator[io.TextIOWrapper]:
    """The same as UTF-8 text; `newline` as in `open`: by default every line end becomes "\\n"."""
    with (
        opened(path) as content,
        io.TextIOWrapper(cast(BinaryIO, content), encoding="utf-8-sig", newline=newline) as text,
    ):
        yield text


@contextmanager
def created(path: Path, name: str) -> Generator[io.BufferedIOBase]:
    """A file to write, compressed if `name` ends so; equal content gives equal bytes."""
    compression = next((c for c in COMPRESSIONS if name.lower().endswith(c)), None)
    with open(path, "wb") as raw:
        if compression is None:
            yield raw
        else:
            with _COMPRESSED[compression](raw) as content:
                yield content


@contextmanager
def reading(path: Path) -> Generator[None]:
    """Turn what a damaged or unreadable file raises into a sentence that names it."""
    damage = (EOFError, OSError, zlib.error, lzma.LZMAError, library("pyarrow").ArrowException)
    try:
        yield
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(
            f"{path} is not UTF-8 text (byte 0x{byte:02x}); convert it to UTF-8"
        ) from None
    except damage as error:
        if isinstance(error, OSError) and error.errno is not None:
            reason = error.strerror or str(error)
            raise InputError(f"{path} cannot be read ({reason}); check the file") from None
        # gzip's and pyarrow's own have no number.
        reason = (str(error) or "it ends too early").splitlines()[0].rstrip(".: ")
        with open(path, "rb") as raw:
            compression = _compression(raw.read(_MAGIC_BYTES))
        if compression and not path.name.lower().endswith(compression):
            raise InputError(
                f"{path} is no text but compressed, and damaged ({reason}); fetch or write it "
                f"again, and name it {path.name}{compression}"
            ) from None
        raise InputError(f"{path} is damaged ({reason}); fetch or write it again") from None


def _compression(start: bytes) -> str | None:
    """Which of COMPRESSIONS the first bytes of a file show."""
    return next((name for name, magic in _MAGIC.items() if magic.match(start)), None)


def _gunzipped(raw: io.BufferedReader) -> io.BufferedIOBase:
    return gzip.GzipFile(fileobj=raw, mode="rb")


def _gzipped(raw: io.BufferedWriter) -> io.BufferedIOBase:
    return gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0)


def _unzst(raw: io.BufferedReader) -> io.BufferedIOBase:
    arrow = library("pyarrow")
    return io.BufferedReader(arrow.CompressedInputStream(arrow.PythonFile(raw), "zstd"))


def _zst(raw: io.BufferedWriter) -> io.BufferedIOBase:
    arrow = library("pyarrow")
    return io.BufferedWriter(arrow.CompressedOutputStream(arrow.PythonFile(raw, mode="w"), "zstd"))


_DECOMPRESSED: dict[str, Callable[[io.BufferedReader], io.BufferedIOBase]] = {
    ".gz": _gunzipped,
    ".bz2": lambda raw: bz2.BZ2File(raw),
    ".xz": lambda raw: lzma.LZMAFile(raw),
    ".zst": _unzst,
}
_COMPRESSED: dict[str, Callable[[io.BufferedWriter], io.BufferedIOBase]] = {
    ".gz": _gzipped,
    ".bz2": lambda raw: bz2.BZ2File(raw, "wb"),
    ".xz": lambda raw: lzma.LZMAFile(raw, "wb"),
    ".zst": _zst,
}
