"""The run folder that a feature index and picks belong to; nothing here imports torch."""

import os
from pathlib import Path

from ...sae.common.errors import InputError


def run_folder(path: str | Path) -> Path:
    """The folder of a run, which holds its autoencoder as `sae/`.

    Raises:
        InputError: it holds none; where it is a part of a run, the message names the run.
    """
    path = Path(path)
    if _is_run(path):
        return path
    if not path.exists():
        raise InputError(f"{path} does not exist; give the folder of a run")
    run = Path(os.path.normpath(path / ".."))
    if _is_run(run):
        path, run = Path(os.path.abspath(path)), Path(os.path.abspath(run))
        raise InputError(f"{path} is a part of the run {run}, not a run; give {run}")
    raise InputError(f"{path} holds no autoencoder in sae/; give the folder of a trained run")


def _is_run(path: Path) -> bool:
    return (path / "sae" / "config.json").is_file()
