"""Columns to Parquet and back; pyarrow, which has no types, is imported when it is used."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...sae.common.errors import InputError
from ...sae.common.paths import require_regular_file
from ...training.data.row_files.formats import library


def write_columns(path: Path, columns: Mapping[str, np.ndarray | Sequence[bytes]]) -> None:
    """Write columns of one length; equal content gives equal bytes."""
    table = library("pyarrow").table(dict(columns))
    library("pyarrow.parquet").write_table(table, path)


def read_columns(path: Path, remedy: str) -> dict[str, Any]:
    """The columns of the file by name, as pyarrow's chunked arrays.

    Raises:
        InputError: it cannot be read; the message ends with the remedy.
    """
    require_regular_file(path, "table", remedy)
    try:
        # A small file gains nothing from threads, and starting them takes longer than reading.
        table = library("pyarrow.parquet").read_table(path, use_threads=False)
    except (OSError, library("pyarrow").ArrowException) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"{path} cannot be read ({reason}); {remedy}") from None
    return {name: table.column(name) for name in table.column_names}
