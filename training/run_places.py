"""Where runs and autoencoders lie: an autoencoder's run, short names, the folder of several."""

import os
from collections.abc import Sequence
from pathlib import Path

from .run import SETTINGS


def is_run(folder: Path) -> bool:
    """Whether the folder is a run's."""
    return (folder / SETTINGS).exists()


def run_of(sae: Path) -> Path:
    """The run folder that an autoencoder lies in, else the autoencoder's own."""
    return sae.parent if sae.name == "sae" and is_run(sae.parent) else sae


def short_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names; whole paths where two have the same."""
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def shared_folder(folders: Sequence[Path]) -> Path:
    """The folder that holds several runs, or their folders; beside the first where there is none
    that near."""
    paths = [folder.absolute() for folder in folders]
    shared = Path(os.path.commonpath([path.parent for path in paths]))
    near = all(len(path.relative_to(shared).parts) <= 2 for path in paths)
    return shared if near else paths[0].parent  # never in / or somebody's home
