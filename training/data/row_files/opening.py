"""Opening what a user names as rows, whatever the format."""

from collections.abc import Sequence
from pathlib import Path

from ....sae.common.errors import InputError
from .column_files import ArrowFile, ParquetFile
from .csv_files import TableFile
from .formats import TABLES, TEXT, file_format
from .json_files import JsonArrayFile, JsonLinesFile, is_array
from .paths import find_files, missing
from .row_file import RowFile
from .text_files import TextLinesFile


def open_rows(name: str | Path, what: str, *, skip_bad_rows: bool = False) -> RowFile:
    """Open the rows of a file, a folder or a pattern; a text file has one on each line.

    Args:
        name: the path; a pattern only if it does not exist.
        what: the option that named it, for an error.
        skip_bad_rows: pass over rows that cannot be read.

    Raises:
        InputError: it is missing, of another kind, or its files have several formats.
    """
    path = Path(name).expanduser()
    files = find_files(str(name), what=f"{what} ").files
    if not files:
        raise missing(str(name), what=f"{what} ")
    kinds = [row_file_type(file) for file in files]
    for file, kind in zip(files, kinds, strict=True):
        same_table = kind is not TableFile or file_format(file) == file_format(files[0])
        if kind is not kinds[0] or not same_table:
            raise InputError(
                f"{what} {name} has files of several formats, {files[0].name} and {file.name}; "
                "give a quoted pattern for those of one"
            )
    return kinds[0](path, files, skip_bad_rows=skip_bad_rows)


def open_files(files: Sequence[Path], *, skip_bad_rows: bool = False) -> RowFile:
    """The rows of files of one format."""
    return row_file_type(files[0])(files[0], files, skip_bad_rows=skip_bad_rows)


def row_file_type(file: Path) -> type[RowFile]:
    """What reads the file; its name has one of the known endings."""
    kind = file_format(file)
    if kind == TEXT:
        return TextLinesFile
    if kind in TABLES:
        return TableFile
    if kind == ".parquet":
        return ParquetFile
    if kind in ArrowFile.out_endings:
        return ArrowFile
    return JsonArrayFile if is_array(file) else JsonLinesFile
