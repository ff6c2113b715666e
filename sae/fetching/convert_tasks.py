"""From the members of a downloaded package to texts with labels, on which probes are measured.

As in `convert.py` the members' checksums have been verified, and the texts become one JSONL file.
"""

import csv
import io
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from .convert import Members, write_jsonl

_TABLE = "probing_datasets_MASTER.csv.zst"
"""The member that says of each data set of the package sae-probes what kind it is."""
_BINARY = "Binary Classification"


def convert_probing_tasks(members: Members, target: Path) -> None:
    """The data sets of the package sae-probes with two labels to rows {dataset, text, label}.

    `dataset` is the name of its file, such as `5_hist_fig_ismale`, and `label` what stands there,
    such as `1` or `female`. Data sets stand in the order of the package's table, rows in their
    own; nothing is cleaned or dropped, and many texts stand there more than once. Data sets with
    numbers or more than two labels to predict are left out.
    """
    by_name = {Path(member).name: file for member, file in members.items()}

    def rows() -> Iterator[dict[str, str]]:
        for described in _table(by_name[_TABLE]):
            if described["Data type"] != _BINARY:
                continue
            name = Path(described["Dataset save name"]).name
            dataset = name.removesuffix(".csv")
            for row in _table(by_name[f"{name}.zst"]):
                yield {"dataset": dataset, "text": row["prompt"], "label": row["target"]}

    write_jsonl(target, rows())


def _table(file: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV file that is compressed with Zstandard."""
    pyarrow: Any = import_module("pyarrow")  # slow, and without types
    with pyarrow.CompressedInputStream(pyarrow.OSFile(str(file)), "zstd") as stream:
        text = stream.read().decode("utf-8")
    return csv.DictReader(io.StringIO(text, newline=""))
