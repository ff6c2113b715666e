"""Find the language model that a user named: fetched, on disk, or on the Hugging Face hub."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from ..common.errors import InputError
from ..common.files import nearest
from ..common.text import first_line
from ..fetching import fetch
from .model_files import require_model_folder

_hub: Any = huggingface_hub  # leaves the types of its arguments open

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


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
    folder = _from_hub(source)
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


def _from_hub(name: str) -> Path:
    try:
        return Path(
            _hub.snapshot_download(
                name,
                allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
                # Subfolders and `consolidated` files hold the same weights in other formats.
                ignore_patterns=["*/*", "consolidated*"],
            )
        )
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        near = nearest(name, fetch.ARTIFACTS)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InputError(
            f"{name!r} is no folder, .gguf file or named model, and the Hugging Face hub gave no "
            f"such model ({first_line(error)}); check the name and the network{hint}"
        ) from error
