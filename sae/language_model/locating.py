"""Find the language model that a user named: fetched, on disk, or on the Hugging Face hub."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ..common.errors import InputError
from ..common.files import nearest
from ..fetching import fetch, hub
from .model_files import require_model_folder

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")

_ENDINGS = (".json", ".safetensors", ".model", ".txt", ".jinja")


def locate(source: str, progress: Callable[[str], None]) -> Path:
    """The local folder or .gguf file of the model that `source` names.

    `source` is a name that can be fetched, a folder, a .gguf file or a name on the Hugging Face
    hub, tried in this order. Only a name not fetched yet and a hub name use the network; of a hub
    model only configuration, tokenizer and safetensors files are downloaded.

    Raises InputError where nothing is found or the weights are no safetensors.
    """
    if source in fetch.ARTIFACTS:
        return _fetched(source, progress)
    path = Path(source).expanduser()
    if path.is_dir():
        require_model_folder(path, source)
        return path
    if path.is_file():
        return _checked_gguf(path)
    if _looks_like_path(source) or not _HUB_NAME.fullmatch(source):
        raise InputError(f"there is no model folder or file at {source!r}; check the path")
    folder = _from_hub(source, progress)
    require_model_folder(folder, source)
    return folder


def _fetched(source: str, progress: Callable[[str], None]) -> Path:
    models = [name for name, artifact in fetch.ARTIFACTS.items() if not artifact.file]
    if source not in models:
        raise InputError(f"{source!r} is a text, not a language model; try {' or '.join(models)}")
    return fetch.fetch(source, progress=progress)


def _looks_like_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or source.endswith(".gguf")


def _checked_gguf(file: Path) -> Path:
    with open(file, "rb") as stream:
        magic = stream.read(4)
    if magic != b"GGUF":
        raise InputError(f"{str(file)!r} is not a GGUF file; give a model folder or a .gguf file")
    return file


def _from_hub(name: str, progress: Callable[[str], None]) -> Path:
    try:
        return hub.download(name, _model_files, progress=progress).folder
    except InputError as error:
        near = nearest(name, fetch.ARTIFACTS)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InputError(
            f"{name!r} is no folder, .gguf file or named model, and {error}{hint}"
        ) from error


def _model_files(names: Sequence[str]) -> list[str]:
    """Configuration, tokenizer and weights; subfolders and files called `consolidated` hold the
    same weights in other formats."""
    found = [
        name
        for name in names
        if "/" not in name and not name.startswith("consolidated") and name.endswith(_ENDINGS)
    ]
    if not found:
        raise InputError("the repository of that name on the hub holds no model; check the name")
    return found
