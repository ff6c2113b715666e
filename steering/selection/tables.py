"""Files of rows that come out as they went in: JSON Lines byte for byte, Parquet with its types.

Columns are added behind a row's own. Nothing is inferred from values, so no number or text changes.
"""

import gzip
import json
import zlib
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

from ...sae.errors import InputError
from ...sae.files import atomic_file
from .rows import Row

JSON_ENDINGS = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz")
PARQUET_ENDING = ".parquet"

_BATCH_ROWS = 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Column(NamedTuple):
    """A column to add, with a value or None for each row of a file."""

    type: Literal["double", "int64", "string"]
    values: Sequence[float | int | str | None]


class Overview(NamedTuple):
    """What a first pass over a file finds."""

    n_rows: int
    columns: dict[str, int]
    """Names in order of appearance, and how many rows have each."""


class RowFile(ABC):
    """A file of rows, opened with `open_rows`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def overview(self) -> Overview:
        """Count rows and columns; of JSON Lines every line is parsed.

        Raises InputError naming the file, and the line if it is one, where something is broken.
        """

    @abstractmethod
    def rows(self, start: int = 0, fields: Collection[str] | None = None) -> Iterator[Row]:
        """The rows from number `start` on; of Parquet only the `fields` are read if given."""

    @abstractmethod
    def write(
        self,
        path: Path,
        *,
        chosen: Sequence[int] | None = None,
        added: Mapping[str, Column] | None = None,
        replace: bool = True,
    ) -> None:
        """Write the rows unchanged and in order to `path`, atomically, in this file's format.

        Args:
            path: a file of the same kind.
            chosen: numbers of the rows to write, rising; by default all.
            added: columns to add, a value for each of the file's rows.
            replace: whether a file of other content at `path` is replaced; else it is refused.
        """

    def require_same_kind(self, path: Path) -> None:
        """Raise an InputError unless this file's rows can be written to the path."""
        if path.resolve() == self.path.resolve():
            raise InputError(f"{path} is the input as well; give another --out")
        if path.is_dir():
            raise InputError(f"{path} is a folder; give a file as --out")
        if _kind(path) is not type(self):
            raise InputError(
                f"{path} has another format than {self.path}; give --out a name that ends in "
                f"{''.join(self.path.suffixes[-1:])}"
            )


def open_rows(path: str | Path, what: str) -> RowFile:
    """Open a file of rows; `what` names its option in an error.

    Raises InputError if it is missing or its name has none of the known endings.
    """
    path = Path(path)
    kind = _kind(path)
    if kind is None:
        raise InputError(
            f"{what} {path} ends in neither .jsonl, .jsonl.gz nor .parquet; give one of these"
        )
    if not path.is_file():
        raise InputError(f"{what} {path} is not there; check the path")
    return kind(path)


def _kind(path: Path) -> "type[RowFile] | None":
    name = path.name.lower()
    if name.endswith(PARQUET_ENDING):
        return ParquetFile
    return JsonLinesFile if name.endswith(JSON_ENDINGS) else None


class JsonLinesFile(RowFile):
    """One JSON object a line, UTF-8; blank lines are no rows. May be compressed with gzip."""

    def overview(self) -> Overview:
        n_rows, columns = 0, dict[str, int]()
        for row in self.rows():
            n_rows += 1
            for name in row:
                columns[name] = columns.get(name, 0) + 1
        return Overview(n_rows, columns)

    def rows(self, start: int = 0, fields: Collection[str] | None = None) -> Iterator[Row]:
        for number, line in islice(self._lines(), start, None):
            yield _parsed(line, f"{self.path}, line {number}")

    def write(
        self,
        path: Path,
        *,
        chosen: Sequence[int] | None = None,
        added: Mapping[str, Column] | None = None,
        replace: bool = True,
    ) -> None:
        wanted = None if chosen is None else set(chosen)
        with (
            atomic_file(path, replace=replace) as temporary,
            _opened(temporary, "wb", path) as file,
        ):
            for place, (_, line) in enumerate(self._lines()):
                if wanted is None or place in wanted:
                    values = {name: column.values[place] for name, column in (added or {}).items()}
                    file.write(_with_values(line, values) + b"\n")

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Lines that are not blank, without the white space around them, and their numbers."""
        with _reading(self.path), _opened(self.path, "rb", self.path) as file:
            for number, raw in enumerate(file, start=1):
                line = raw.removeprefix(_BYTE_ORDER_MARK).strip() if number == 1 else raw.strip()
                if line:
                    yield number, line


class ParquetFile(RowFile):
    """A Parquet file; its schema and metadata are kept."""

    def overview(self) -> Overview:
        with self._open() as file:
            n_rows = cast(int, file.metadata.num_rows)
            return Overview(n_rows, dict.fromkeys(file.schema_arrow.names, n_rows))

    def rows(self, start: int = 0, fields: Collection[str] | None = None) -> Iterator[Row]:
        columns = None if fields is None else list(fields)
        place = 0
        with self._open() as file, _reading(self.path):
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                first = max(0, start - place)
                place += batch.num_rows
                if first < batch.num_rows:
                    yield from batch.slice(first).to_pylist()

    def write(
        self,
        path: Path,
        *,
        chosen: Sequence[int] | None = None,
        added: Mapping[str, Column] | None = None,
        replace: bool = True,
    ) -> None:
        arrow, parquet = _module("pyarrow"), _module("pyarrow.parquet")
        columns = {
            name: arrow.array(column.values, type=arrow.type_for_alias(column.type))
            for name, column in (added or {}).items()
        }
        with self._open() as file, atomic_file(path, replace=replace) as temporary:
            schema = file.schema_arrow
            for name, column in columns.items():
                schema = schema.append(arrow.field(name, column.type))
            start = 0
            with parquet.ParquetWriter(temporary, schema) as writer:
                for number in range(file.num_row_groups):
                    with _reading(self.path):
                        table = file.read_row_group(number)
                    end = start + table.num_rows
                    for name, column in columns.items():
                        table = table.append_column(name, column.slice(start, table.num_rows))
                    if chosen is not None:
                        own = chosen[bisect_left(chosen, start) : bisect_left(chosen, end)]
                        table = table.take(arrow.array((n - start for n in own), type="int64"))
                    writer.write_table(table)
                    start = end

    @contextmanager
    def _open(self) -> Generator[Any]:
        with _reading(self.path):
            file = _module("pyarrow.parquet").ParquetFile(self.path)
        with file:
            yield file


def _parsed(line: bytes, where: str) -> Row:
    try:
        value: object = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise InputError(f"{where} is not UTF-8 (byte 0x{byte:02x}); convert it to UTF-8") from None
    except (ValueError, RecursionError) as error:
        hint = "; write one object a line" if line.startswith(b"[") else "; mend or remove the line"
        raise InputError(f"{where} is not valid JSON ({error}){hint}") from None
    if not isinstance(value, dict):
        raise InputError(
            f"{where} holds a JSON {type(value).__name__} where an object is needed; write one "
            "object a line"
        )
    return cast(Row, value)


def _with_values(line: bytes, values: Mapping[str, object]) -> bytes:
    """The JSON object with more keys at its end; what stands in it stays byte for byte."""
    if not values:
        return line
    own = line.removesuffix(b"}").rstrip()
    added = json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    return own + (b"" if own == b"{" else b", ") + added.removeprefix(b"{")


@contextmanager
def _opened(path: Path, mode: Literal["rb", "wb"], named: Path) -> Generator[BinaryIO]:
    """The file, through gzip if `named` ends so; equal content gives equal bytes."""
    with open(path, mode) as raw:
        if named.name.lower().endswith(".gz"):
            with gzip.GzipFile(filename="", mode=mode, fileobj=raw, mtime=0) as file:
                yield cast(BinaryIO, file)
        else:
            yield raw


@contextmanager
def _reading(path: Path) -> Generator[None]:
    """Turn what a damaged file raises into a sentence that names it."""
    damage = (EOFError, OSError, zlib.error, _module("pyarrow").ArrowException)
    try:
        yield
    except damage as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the file system; gzip's and pyarrow's own have no number
        reason = (str(error) or "it ends too early").splitlines()[0].rstrip(".: ")
        raise InputError(f"{path} is damaged ({reason}); fetch or write it again") from None


def _module(name: str) -> Any:
    """pyarrow, which has no types and is slow to import."""
    return import_module(name)
