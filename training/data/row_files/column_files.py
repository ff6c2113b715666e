"""Parquet and Arrow files; their types and metadata are kept, and only asked-for columns read."""

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ....sae.common.errors import InputError
from ....sae.common.files import atomic_file
from .formats import library, reading
from .row_file import BrokenRow, Column, Overview, Row, RowFile

_BATCH_ROWS = 1024
_ARROW_FILE = b"ARROW1"


class ColumnFile(RowFile):
    """Files of typed columns; several must have the same."""

    @abstractmethod
    def open(self, file: Path) -> Any:
        """A context manager with a reader of the file that has its `schema`."""

    @abstractmethod
    def batches(self, reader: Any, columns: list[str] | None) -> Iterator[Any]:
        """Record batches (or tables) of the columns, by default of all."""

    @abstractmethod
    def writer(self, path: Path, schema: Any) -> Any:
        """A context manager with a writer of the same format, with its `write`."""

    def places(
        self, file: Path, fields: Collection[str] | None = None
    ) -> Iterator[tuple[str, Row | BrokenRow]]:
        number = 0
        with reading(file), self.open(file) as reader:
            columns = _columns(reader.schema.names, fields, file)
            for batch in self.batches(reader, columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row

    def overview(self) -> Overview:
        n_rows, names = 0, list[str]()
        for file in self.files:
            with reading(file), self.open(file) as reader:
                names = list(dict.fromkeys([*names, *_names(reader.schema)]))
                n_rows += self.count(reader)
        return Overview(n_rows, dict.fromkeys(names, n_rows))

    def first_columns(self, file: Path) -> dict[str, int]:
        with reading(file), self.open(file) as reader:
            has_rows = any(batch.num_rows for batch in self.batches(reader, []))
            return dict.fromkeys(_names(reader.schema), 1) if has_rows else {}

    def field_names(self, file: Path, row: Row) -> list[str]:
        with reading(file), self.open(file) as reader:
            return list(dict.fromkeys(_names(reader.schema)))

    @abstractmethod
    def count(self, reader: Any) -> int:
        """Rows of a file."""

    def write(
        self,
        path: Path,
        *,
        chosen: Sequence[int] | None = None,
        added: Mapping[str, Column] | None = None,
        replace: bool = True,
    ) -> None:
        arrow = library("pyarrow")
        columns = {
            name: arrow.array(column.values, type=arrow.type_for_alias(column.type))
            for name, column in (added or {}).items()
        }
        start = 0
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_file(path, replace=replace))
            writer = own_schema = None
            for file, schema, batch in self._batches():
                if writer is None:
                    own_schema = schema
                    for name, column in columns.items():
                        schema = schema.append(arrow.field(name, column.type))
                    writer = stack.enter_context(self.writer(temporary, schema))
                elif not schema.equals(own_schema):
                    raise InputError(
                        f"{file} has other columns than {self.files[0]}, or of other types; "
                        "give files with the same columns"
                    )
                if batch is None:
                    continue
                table, end = batch, start + batch.num_rows
                if not isinstance(batch, arrow.Table):
                    table = arrow.Table.from_batches([batch])
                for name, column in columns.items():
                    table = table.append_column(name, column.slice(start, table.num_rows))
                if chosen is not None:
                    own = chosen[bisect_left(chosen, start) : bisect_left(chosen, end)]
                    table = table.take(arrow.array((n - start for n in own), type="int64"))
                writer.write(table)
                start = end

    def _batches(self) -> Iterator[tuple[Path, Any, Any]]:
        """File, its schema and a batch, for every batch of every file; None if a file has none."""
        for file in self.files:
            with reading(file), self.open(file) as reader:
                yield file, reader.schema, None
                for batch in self.whole_batches(reader):
                    yield file, reader.schema, batch

    def whole_batches(self, reader: Any) -> Iterator[Any]:
        """The batches to copy, as the file divides them."""
        return self.batches(reader, None)


class ParquetFile(ColumnFile):
    """Parquet; row groups stay as they are."""

    out_endings = (".parquet",)

    @contextmanager
    def open(self, file: Path) -> Generator[Any]:
        with library("pyarrow.parquet").ParquetFile(file) as parquet:
            yield _Parquet(parquet)

    def batches(self, reader: Any, columns: list[str] | None) -> Iterator[Any]:
        yield from reader.file.iter_batches(batch_size=_BATCH_ROWS, columns=columns)

    def whole_batches(self, reader: Any) -> Iterator[Any]:
        for number in range(reader.file.num_row_groups):
            yield reader.file.read_row_group(number)

    def count(self, reader: Any) -> int:
        return reader.file.metadata.num_rows

    def writer(self, path: Path, schema: Any) -> Any:
        return library("pyarrow.parquet").ParquetWriter(path, schema)


class _Parquet:
    def __init__(self, file: Any) -> None:
        self.file = file
        self.schema = file.schema_arrow


class ArrowFile(ColumnFile):
    """Arrow's own format, as a file (Feather) or a stream (what `datasets` saves)."""

    out_endings = (".arrow", ".feather")

    @contextmanager
    def open(self, file: Path) -> Generator[Any]:
        arrow = library("pyarrow")
        # Not mapped into memory: a file that shrinks meanwhile would end the process.
        with arrow.OSFile(str(file)) as source:
            is_file = source.read(len(_ARROW_FILE)) == _ARROW_FILE
            source.seek(0)
            opened = (arrow.ipc.open_file if is_file else arrow.ipc.open_stream)(source)
            with opened as reader:
                yield reader

    def batches(self, reader: Any, columns: list[str] | None) -> Iterator[Any]:
        places = None if columns is None else [reader.schema.names.index(c) for c in columns]
        for batch in _arrow_batches(reader):
            own = batch if places is None else batch.select(places)
            own.validate(full=True)  # bytes of a damaged file must not be taken for offsets
            yield own

    def count(self, reader: Any) -> int:
        return sum(batch.num_rows for batch in _arrow_batches(reader))

    def writer(self, path: Path, schema: Any) -> Any:
        with open(self.files[0], "rb") as first:
            is_file = first.read(len(_ARROW_FILE)) == _ARROW_FILE
        ipc = library("pyarrow").ipc
        return (ipc.new_file if is_file else ipc.new_stream)(str(path), schema)


def _arrow_batches(reader: Any) -> Iterator[Any]:
    if hasattr(reader, "num_record_batches"):
        return (reader.get_batch(number) for number in range(reader.num_record_batches))
    return iter(reader)


def _columns(names: list[str], fields: Collection[str] | None, file: Path) -> list[str] | None:
    """The columns that hold the fields, of which one may lie in an object: `column.field`."""
    if fields is None:
        wanted = names
    else:
        heads = [field if field in names else field.split(".")[0] for field in fields]
        wanted = [name for name in dict.fromkeys(heads) if name in names]
    for name in wanted:
        if names.count(name) > 1:
            raise InputError(f"{file} has several columns {name!r}; give each its own name")
    return None if fields is None else wanted


def _names(schema: Any) -> Iterator[str]:
    """The columns, and the fields of those that hold objects as `column.field`."""
    for column in schema:
        yield column.name
        if library("pyarrow").types.is_struct(column.type):
            yield from (f"{column.name}.{inner.name}" for inner in column.type)
