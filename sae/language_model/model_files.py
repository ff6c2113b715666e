"""What the folder of a transformers model holds; imports no torch."""

from pathlib import Path
from typing import cast

from ..common.errors import InputError
from ..common.files import read_json
from ..common.paths import refuse_special_file

_ADAPTER = "adapter_config.json"
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers loads from a model's folder, sorted; others that lie
    there are no part of the model. Empty where there are none to load.

    Raises:
        InputError: the index of several files is broken.
    """
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if not (folder / _INDEX).is_file():
        return []
    files: object = read_json(folder / _INDEX, "index of the weights").get("weight_map")
    found = cast(dict[str, object], files).values() if isinstance(files, dict) else ()
    names = {name for name in found if isinstance(name, str)}
    if not names:
        raise InputError(f"{folder / _INDEX} names no files; copy the whole model again")
    return sorted(folder / name for name in names)


def require_model_folder(folder: Path, source: str) -> None:
    """Raise an InputError unless the folder holds a whole model of transformers in safetensors."""
    for item in folder.iterdir():
        refuse_special_file(item, "model's file", "copy the whole model again")
    if (folder / _ADAPTER).is_file():
        raise InputError(
            f"{source!r} holds a LoRA adapter ({_ADAPTER}), which is not applied here; merge it "
            "with peft's merge_and_unload and give the folder that save_pretrained then writes, or "
            f"move {_ADAPTER} away to use the model beside it without the adapter"
        )
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{source!r} holds no config.json, so it is no Hugging Face model; check the path"
        )
    if not weight_files(folder):
        raise InputError(
            f"{source!r} holds no safetensors weights, and pickled weights are never loaded "
            f"(neither {_SINGLE} nor {_INDEX} is there); convert it once, elsewhere, with "
            "transformers' save_pretrained"
        )
