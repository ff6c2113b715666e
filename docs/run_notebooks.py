"""Run the notebooks of docs/notebooks and keep what they print: `make notebooks`.

Each runs from its first cell to its last in an empty folder of its own, so that nothing of an
earlier run helps it. Names after the command choose notebooks: `python docs/run_notebooks.py pick`.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent / "notebooks"


def run_notebook(path: Path, folder: Path, parameters: Mapping[str, object] | None = None) -> Any:
    """Run a notebook and give it with its outputs; the file stays as it is.

    Args:
        path: the notebook. Its first cell of code assigns its parameters, a name on each line.
        folder: where it runs.
        parameters: other values for some of them.

    Raises:
        KeyError: the first cell of code does not assign such a name.
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    notebook: Any = nbformat.read(path, as_version=4)  # pyright: ignore[reportUnknownMemberType]
    settings = next(cell for cell in notebook.cells if cell.cell_type == "code")
    asked, own = settings.source, dict[str, object]()
    exec(asked, own)
    if unknown := set(parameters or ()) - set(own):
        raise KeyError(f"{path.name} has no parameter {', '.join(sorted(unknown))}")
    changed = [f"{name} = {value!r}" for name, value in (parameters or {}).items()]
    settings.source = "\n".join([asked, *changed])
    # Cells of shell commands find `sparsteer` beside the interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    client = NotebookClient(
        notebook,
        timeout=1200,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute()  # pyright: ignore[reportUnknownMemberType] - untyped
    settings.source = asked
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="notebooks to run; all if none is named")
    names: list[str] = parser.parse_args().names
    for path in sorted(FOLDER.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            notebook = run_notebook(path, Path(folder))
        notebook.metadata.pop("language_info", None)
        nbformat.write(notebook, path)  # pyright: ignore[reportUnknownMemberType]
        print(f"{path.stem}: {time.monotonic() - started:.0f} s, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
