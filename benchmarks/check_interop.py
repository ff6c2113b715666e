"""Autoencoders of other libraries in sparsteer and sparsteer's in theirs: the same codes?

    python benchmarks/check_interop.py [--only LAYOUT ...] [--fixtures FOLDER] [--openai CHECKOUT]

Each library runs in an environment of its own (`environments.py`) and writes autoencoders by its
own functions, with the codes and reconstructions that it computes; sparsteer loads them (read).
Sparsteer exports autoencoders, which the libraries load (write), and what it loaded before, for the
library that wrote it (there and back) and for the others. A difference is the largest absolute one
over the largest absolute value, in float32; what sparsteer loads is encoded in batches of 1, of 7
and all at once. The command ends with status 1 if one exceeds the goal, or if an autoencoder is
refused that should not be. `--fixtures` also stores small cases for the tests.

OpenAI's library is in no registry; it takes a checkout of github.com/openai/sparse_autoencoder.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from itertools import groupby
from pathlib import Path

import torch
from environments import ENVIRONMENTS, FOLDER, python_of
from interop.library import LIBRARIES, SIZES, Exchange, Library, Loaded, Row
from results_file import write_table

GOAL = 1e-5


def good(row: Row) -> bool:
    """Whether both differences reach the goal; NaN does not."""
    return row.codes <= GOAL and row.reconstruction <= GOAL


def python_for(library: Library, arguments: argparse.Namespace) -> str | None:
    """The interpreter that has the library; None if it is left out, which is said."""
    if library.layout == "openai":
        if arguments.openai is None:
            print("openai is left out; give --openai with a checkout", file=sys.stderr)
            return None
        os.environ["OPENAI_SPARSE_AUTOENCODER"] = str(arguments.openai.resolve())
    if library.environment is None:
        return sys.executable
    try:
        return python_of(library.environment, arguments.environments)
    except subprocess.CalledProcessError:
        if not library.may_lack:
            raise
        print(f"{library.layout} is left out; it cannot be installed", file=sys.stderr)
        return None


def cells(*values: object) -> str:
    """A line of a table."""
    shown = (f"{value:.1e}" if isinstance(value, float) else str(value) for value in values)
    return "| " + " | ".join(shown) + " |"


def across(rows: list[Row]) -> list[str]:
    """A table of what one library wrote and another loads, a line for each pair."""
    lines = [cells("from", "to", "autoencoders", "codes", "reconstruction"), "|" + " --- |" * 5]
    for (layout, direction), group in groupby(rows, key=lambda row: row[:2]):
        found = list(group)
        worst = max(row.codes for row in found), max(row.reconstruction for row in found)
        lines.append(cells(direction.removeprefix("from "), layout, len(found), *worst))
    return lines


def grouped(refused: list[list[str]]) -> list[str]:
    """A line for each layout and reason."""
    names: dict[tuple[str, str], list[str]] = {}
    for layout, name, reason in refused:
        names.setdefault((layout, reason), []).append(name)
    return [cells(layout, ", ".join(found), reason) for (layout, reason), found in names.items()]


def report(rows: list[Row], refused: list[list[str]]) -> None:
    """Write and print the tables."""
    versions = [(each.alone or each.packages)[0] for each in ENVIRONMENTS.values()]
    worst = max(max(row.codes, row.reconstruction) for row in rows)
    between = [row for row in rows if row.direction.startswith("from ")]
    notes = [
        f"D={SIZES.width} F={SIZES.latents} k={SIZES.k}, {SIZES.rows} rows, float32. Largest of "
        f"all: {worst:.1e}; the goal is {GOAL:.0e}. Versions: {', '.join(versions)}.",
        "",
        "Written by one library, loaded and exported by sparsteer, loaded by another:",
        "",
        *across(between),
        "",
        "Refused, with the reason:",
        "",
        cells("layout", "autoencoders", "reason"),
        "|" + " --- |" * 3,
        *grouped(refused),
    ]
    header = ["layout", "direction", "autoencoder", "what is at stake", "codes", "reconstruction"]
    shown = [
        [*row[:4], f"{row.codes:.1e}", f"{row.reconstruction:.1e}"]
        for row in rows
        if row not in between
    ]
    write_table("interop", header, shown, notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [library.layout for library in LIBRARIES]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--fixtures", type=Path)
    parser.add_argument("--openai", type=Path)
    parser.add_argument("--environments", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        exchanges: list[Exchange] = []
        loaded: list[Loaded] = []
        for library in LIBRARIES:
            if library.layout in arguments.only and (python := python_for(library, arguments)):
                exchange = Exchange(library, python, Path(folder) / library.layout)
                exchanges.append(exchange)
                loaded += exchange.read()
        for exchange in exchanges:
            if exchange.library.writable:
                exchange.write(loaded)
            if arguments.fixtures is not None:
                exchange.write_fixtures(arguments.fixtures)
    rows = [row for exchange in exchanges for row in exchange.rows]
    report(rows, [line for exchange in exchanges for line in exchange.refused])
    faults = [fault for exchange in exchanges for fault in exchange.faults]
    faults += [f"{' '.join(row[:3])} differs" for row in rows if not good(row)]
    if faults:
        raise SystemExit("\n".join(faults))


if __name__ == "__main__":
    main()
