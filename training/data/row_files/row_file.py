"""Files of rows that come out as they went in, in one way for all formats.

Nothing is inferred from values, so no number or text changes. Several files of one format are read
as one, in order.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from ....sae.common.errors import InputError
from ....sae.common.files import sha256_file
from .formats import file_format

Row = Mapping[str, Any]

_LOOKED_AT = 100
"""Rows that are looked at to find the columns of a corpus."""

_NAMED = 5
"""Broken rows that an error names; the others are counted."""


class BrokenRow(NamedTuple):
    """Stands for a row that cannot be read."""

    problem: str
    """What is wrong, behind the place: "is not valid JSON (...)"."""
    remedy: str


class Column(NamedTuple):
    """A column to add, with a value or None for each row of a file."""

    type: Literal["double", "int64", "string"]
    values: Sequence[float | int | str | None]


class Overview(NamedTuple):
    """What a first pass over a file finds."""

    n_rows: int
    columns: dict[str, int]
    """Names in order of appearance, those in an object as `object.name`, and how many rows have
    each."""
    excluded: tuple[str, ...] = ()
    """Where rows are that cannot be read, if such are left out: "FILE, line 3"."""


class RowFile(ABC):
    """One or several files of rows, opened with `open_rows`.

    Args:
        path: what the user named.
        files: the files that it stands for.
        skip_bad_rows: pass over rows that cannot be read; they have no number.
    """

    out_endings: tuple[str, ...]
    """Endings of the files that the rows can be written to."""

    plain_text = False
    """Whether a row is a line of text, in whatever field a text is looked for."""

    def __init__(self, path: Path, files: Sequence[Path], *, skip_bad_rows: bool = False) -> None:
        self.path = path
        self.files = list(files)
        self.skip_bad_rows = skip_bad_rows

    @abstractmethod
    def places(
        self, file: Path, fields: Collection[str] | None = None
    ) -> Iterator[tuple[str, Row | BrokenRow]]:
        """The rows of a file, each with where it stands ("line 3"); where possible only `fields`
        are read."""

    @abstractmethod
    def overview(self) -> Overview:
        """Count rows and columns.

        Raises InputError naming the rows that cannot be read, unless they are passed over.
        """

    def rows(self, start: int = 0, fields: Collection[str] | None = None) -> Iterator[Row]:
        """The rows from number `start` on; where possible only the `fields` are read."""
        return islice((row for _, row in self.placed_rows(fields)), start, None)

    def placed_rows(self, fields: Collection[str] | None = None) -> Iterator[tuple[str, Row]]:
        """The rows that can be read, each with file and place, for a message."""
        for file in self.files:
            for place, row in self.places(file, fields):
                if not isinstance(row, BrokenRow):
                    yield f"{file}, {place}", row
                elif not self.skip_bad_rows:
                    raise InputError(f"{file}, {place} {row.problem}; {row.remedy}")

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
            path: a file of the same kind; compressed if its name says so.
            chosen: numbers of the rows to write, rising; by default all.
            added: columns to add, a value for each of the rows.
            replace: whether a file of other content at `path` is replaced; else it is refused.
        """

    def numbers(self, column: str) -> Iterator[object]:
        """The values of a column that is said to hold numbers."""
        for row in self.rows(fields=(column,)):
            yield row.get(column)

    def first_columns(self, file: Path) -> dict[str, int]:
        """How many of the first rows of a file have each column; empty if it has no rows."""
        columns = dict[str, int]()
        for _, row in islice(self.places(file), _LOOKED_AT):
            for name in () if isinstance(row, BrokenRow) else columns_of(row):
                columns[name] = columns.get(name, 0) + 1
        return columns

    def field_names(self, file: Path, row: Row) -> list[str]:
        """The names of a row's fields, for an error; those of a table's columns."""
        return list(columns_of(row))

    def fingerprint(self) -> str:
        """SHA-256 of the content."""
        return fingerprint(self.files)

    def require_same_kind(self, path: Path) -> None:
        """Raise an InputError unless this file's rows can be written to the path."""
        read = [file.resolve() for file in self.files]
        if path.resolve() in read:
            raise InputError(f"{path} is the input as well; give another --out")
        if path.is_dir():
            raise InputError(f"{path} is a folder; give a file as --out")
        if self.path.is_dir() and self.path.resolve() in path.resolve().parents:
            raise InputError(f"{path} lies in the folder that is read; give another --out")
        own = cast(str, file_format(self.files[0]))
        allowed = self.out_endings if self.plain_text else (own, *self.out_endings)
        if file_format(path) not in allowed:
            raise InputError(
                f"{path} has another format than {self.path}; give --out a name that ends in "
                f"{' or '.join(dict.fromkeys(allowed))}"
            )


def fingerprint(files: Sequence[Path]) -> str:
    """SHA-256 of a file, or of those of several in order; InputError if one cannot be read."""
    try:
        digests = [sha256_file(file) for file in files]
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be read ({error.strerror}); check the file"
        ) from None
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


class BrokenRows:
    """Collects what cannot be read, to name some of it in one error."""

    def __init__(self) -> None:
        self.places: list[str] = []
        self._first: BrokenRow | None = None

    def add(self, where: str, row: BrokenRow) -> None:
        self.places.append(where)
        self._first = self._first or row

    def require_none(self) -> None:
        """Raise InputError if there are any, with the first problem and where the next are."""
        if self._first is None:
            return
        others = self.places[1:_NAMED]
        more = len(self.places) - 1 - len(others)
        listed = ", ".join(place.rpartition(", ")[2] for place in others)
        also = f"; so it is with {listed}" + (f" and {more:,} more" if more else "")
        raise InputError(
            f"{self.places[0]} {self._first.problem}{also if others else ''}; "
            f"{self._first.remedy}, or leave such rows out with --skip-bad-rows"
        )


def columns_of(row: Row) -> Iterator[str]:
    """The names in a row, and those of the objects in it as `object.name`."""
    for name, value in row.items():
        yield name
        if isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in cast(dict[object, object], value))
