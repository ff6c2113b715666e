"""The run folder that a feature index and picks belong to; torch is imported only for a source that
is no run yet."""

import os
from pathlib import Path

from ...sae.common.errors import InputError
from ...sae.common.shipped import is_shipped


def run_folder(path: str | Path) -> Path:
    """The folder of a run, which holds its autoencoder as `sae/`.

    The name of a dictionary that comes with this package is its run in this user's cache
    (`shipped_run`), also where a folder of that name is here: that one is `./NAME`.
    An autoencoder that is in no run, such as one of another library or on the hub, is kept as one
    in this user's cache (`imported_run`), so that the same source finds its index again.

    Raises:
        InputError: there is no autoencoder; where it is a part of a run, the message names the run.
    """
    if is_shipped(path):
        from .shipped_run import shipped_run

        return shipped_run(str(path))
    source, path = str(path), Path(path)
    if _is_run(path):
        return path
    run = Path(os.path.normpath(path / ".."))
    if path.exists() and _is_run(run):
        path, run = Path(os.path.abspath(path)), Path(os.path.abspath(run))
        raise InputError(f"{path} is a part of the run {run}, not a run; give {run}")
    from ...sae.interop.importing import imported_run

    return imported_run(source)


def run_path(path: str | Path) -> Path:
    """A path as it is given, be a run there or not; the name of a dictionary that comes with this
    package is its run."""
    return run_folder(path) if is_shipped(path) else Path(path)


def _is_run(path: Path) -> bool:
    return (path / "sae" / "config.json").is_file()
