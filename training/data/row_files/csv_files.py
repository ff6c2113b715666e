"""Tables of text with a header, divided by commas or tabs; rows stay as they are written."""

import csv
import io
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ....sae.common.errors import InputError
from ....sae.common.files import atomic_file
from .formats import created, file_format, opened_text, reading
from .row_file import BrokenRow, BrokenRows, Column, Overview, Row, RowFile

_REMEDY = "mend or remove it"


class _Record(NamedTuple):
    place: str
    cells: list[str] | BrokenRow
    raw: str
    """As it is written, with its line end."""


class TableFile(RowFile):
    """Files with one header; every cell is text. Lines without anything are no rows."""

    def __init__(self, path: Path, files: Sequence[Path], *, skip_bad_rows: bool = False) -> None:
        super().__init__(path, files, skip_bad_rows=skip_bad_rows)
        self.out_endings = (file_format(self.files[0]) or "",)
        self._delimiter = "\t" if self.out_endings == (".tsv",) else ","
        # The limit of 131,072 characters in a cell is one for the whole process.
        csv.field_size_limit(sys.maxsize)

    def places(
        self, file: Path, fields: Collection[str] | None = None
    ) -> Iterator[tuple[str, Row | BrokenRow]]:
        header: list[str] | None = None
        for record in self._records(file):
            if isinstance(record.cells, BrokenRow):
                yield record.place, record.cells
            elif header is None:
                header = self._header(record.cells, file, fields)
            else:
                yield record.place, dict(zip(header, record.cells, strict=True))

    def overview(self) -> Overview:
        n_rows, broken = 0, BrokenRows()
        for file in self.files:
            for place, row in self.places(file):
                if isinstance(row, BrokenRow):
                    broken.add(f"{file}, {place}", row)
                else:
                    n_rows += 1
        if not self.skip_bad_rows:
            broken.require_none()
        return Overview(n_rows, dict.fromkeys(self._names(), n_rows), tuple(broken.places))

    def numbers(self, column: str) -> Iterator[object]:
        for row in self.rows(fields=(column,)):
            value = row.get(column) or None
            try:
                yield None if value is None else float(value)
            except ValueError:
                yield value

    def write(
        self,
        path: Path,
        *,
        chosen: Sequence[int] | None = None,
        added: Mapping[str, Column] | None = None,
        replace: bool = True,
    ) -> None:
        columns = added or {}
        wanted = None if chosen is None else set(chosen)
        with (
            atomic_file(path, replace=replace) as temporary,
            created(temporary, path.name) as file,
        ):
            (header, *_), records = self._divided()
            file.write(self._line(header.raw, columns))
            for number, record in enumerate(records):
                if wanted is None or number in wanted:
                    values = (column.values[number] for column in columns.values())
                    file.write(self._line(record.raw, values))

    def _divided(self) -> tuple[list[_Record], Iterator[_Record]]:
        """The files' headers, and the rows that can be read."""
        files = [self._good(file) for file in self.files]
        headers = [record for records in files if (record := next(records, None)) is not None]
        return headers, chain.from_iterable(files)

    def _good(self, file: Path) -> Iterator[_Record]:
        return (record for record in self._records(file) if not isinstance(record.cells, BrokenRow))

    def _names(self) -> list[str]:
        """The header, which all files share."""
        headers: list[list[str]] = []
        for file in self.files:
            first = next(self._good(file), None)
            if first is None or isinstance(first.cells, BrokenRow):
                continue
            headers.append(first.cells)
            if headers[0] != headers[-1]:
                raise InputError(
                    f"{file} has other columns than {self.files[0]} "
                    f"({', '.join(headers[-1])}); give files with the same header"
                )
        return headers[0] if headers else []

    def _header(self, names: list[str], file: Path, fields: Collection[str] | None) -> list[str]:
        for name in fields or ():
            if names.count(name) > 1:
                raise InputError(f"{file} has several columns {name!r}; give each its own name")
        return names

    def _records(self, file: Path) -> Iterator[_Record]:
        """The header and the rows, each as it is written; cells of the header's number."""
        with reading(file), opened_text(file, newline="") as content:
            lines = _Lines(content)
            reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
            n_cells: int | None = None
            while True:
                place = f"line {lines.number + 1}"
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    yield _Record(place, BrokenRow(f"is not valid CSV ({error})", _REMEDY), "")
                    lines.take()
                    continue
                if cells is None:
                    return
                raw = lines.take()
                if not cells:
                    continue
                if "\0" in raw:
                    yield _Record(place, BrokenRow("holds a NUL byte", _REMEDY), raw)
                    continue
                n_cells = n_cells or len(cells)
                if len(cells) != n_cells:
                    problem = f"has {len(cells)} cells where the header has {n_cells}"
                    yield _Record(place, BrokenRow(problem, _REMEDY), raw)
                else:
                    yield _Record(place, cells, raw)

    def _line(self, raw: str, values: Iterable[object]) -> bytes:
        """A row with more cells, empty for None."""
        own = raw.rstrip("\r\n")
        end = raw[len(own) :] or "\n"
        added = io.StringIO()
        if cells := list(values):
            # An empty cell before them: alone, an empty one would be quoted.
            csv.writer(added, delimiter=self._delimiter, lineterminator="").writerow(["", *cells])
        return (own + added.getvalue() + end).encode()


class _Lines:
    """Lines of a table, counted, and kept until they are taken."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._held: list[str] = []
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._held.append(line)
        self.number += 1
        return line

    def take(self) -> str:
        """The lines given since."""
        text = "".join(self._held)
        self._held.clear()
        return text
