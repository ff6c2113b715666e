"""An intervention in a folder: `intervention.json`, and its tensors in `vectors.safetensors`."""

import re
from collections.abc import Mapping
from pathlib import Path

from ...sae.common.errors import InputError
from ...sae.common.files import atomic_folder
from ...sae.common.tensor_files import load_tensors, save_tensors
from .vectors import Vectors

SPEC_FILE = "intervention.json"
VECTORS_FILE = "vectors.safetensors"

_REMEDY = "restore the folder or write it again"
_PLACE = re.compile(r"(?P<place>edits\.\d+|(?:edits\.\d+\.)?gate|cap)\.(?P<name>.+)")


def write_folder(path: Path, json_text: str, vectors: Mapping[str, Vectors]) -> None:
    """Write the folder, which appears whole.

    Raises:
        InputError: there is something else at the path, or of some vectors only the digest is
            known.
    """
    if path.exists() and not _may_replace(path):
        raise InputError(f"{path} holds something else than an intervention; choose another path")
    with atomic_folder(path) as folder:
        write_files(folder, json_text, vectors)


def write_files(folder: Path, json_text: str, vectors: Mapping[str, Vectors]) -> None:
    """Write the two files, or the one where there are no vectors, into a folder that is there.

    Raises:
        InputError: of some vectors only the digest is known.
    """
    tensors = {
        f"{place}.{name}": tensor
        for place, each in vectors.items()
        for name, tensor in each.tensors.items()
    }
    (folder / SPEC_FILE).write_text(json_text, encoding="utf-8")
    if tensors:
        save_tensors(folder / VECTORS_FILE, tensors)


def spec_file(path: Path) -> Path:
    """The JSON file of an intervention at a path: the path itself, or the one in the folder."""
    return path / SPEC_FILE if path.is_dir() else path


def read_vectors(path: Path) -> dict[str, Vectors]:
    """The vectors of each place that lie beside an intervention's JSON file.

    Raises:
        InputError: the file of tensors cannot be read.
    """
    file = path.parent / VECTORS_FILE
    if not file.exists():
        return {}
    found: dict[str, dict[str, object]] = {}
    for key, tensor in load_tensors(file, _REMEDY).items():
        parts = _PLACE.fullmatch(key)
        if parts is None:
            raise InputError(f"{file} has a tensor {key!r} of no intervention; {_REMEDY}")
        found.setdefault(parts["place"], {})[parts["name"]] = tensor
    return {place: Vectors(tensors) for place, tensors in found.items()}


def _may_replace(path: Path) -> bool:
    """Whether the path is an empty folder or one with an intervention and nothing else."""
    return path.is_dir() and {item.name for item in path.iterdir()} <= {SPEC_FILE, VECTORS_FILE}
