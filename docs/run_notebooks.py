"""Run the notebooks of docs/notebooks and keep what they print: `make notebooks`.

They run in one folder, by default an empty one that is removed, where each goes on with what is
there already. `python docs/run_notebooks.py pick --folder there` runs one, in a folder that stays.
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

_nbformat: Any = nbformat  # it has no types
FOLDER = Path(__file__).parent / "notebooks"
JOBS = ["train", "pick", "steer", "select"]
"""In the order of the chain."""


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
    notebook = _nbformat.read(path, as_version=4)
    settings = next(cell for cell in notebook.cells if cell.cell_type == "code")
    asked, own = settings.source, dict[str, object]()
    exec(asked, own)
    if unknown := set(parameters or ()) - set(own):
        raise KeyError(f"{path.name} has no parameter {', '.join(sorted(unknown))}")
    changed = [f"{name} = {value!r}" for name, value in (parameters or {}).items()]
    settings.source = "\n".join([asked, *changed])
    client = NotebookClient(
        notebook,
        timeout=3600,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    environment = {
        **os.environ,
        # Cells of shell commands find `sparsteer` beside the interpreter.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm wants widgets for its bars
    }
    client.execute(env=environment)
    settings.source = asked
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=JOBS, help="notebooks to run; all by default")
    parser.add_argument("--folder", help="where they run; by default an empty one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as empty:
        folder = Path(arguments.folder or empty)
        for name in arguments.names:
            started = time.monotonic()
            path = FOLDER / f"{name}.ipynb"
            notebook = run_notebook(path, folder)
            notebook.metadata.pop("language_info", None)
            _nbformat.write(notebook, path)
            seconds = time.monotonic() - started
            print(f"{name}: {seconds:.0f} s, {path.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
    main()
