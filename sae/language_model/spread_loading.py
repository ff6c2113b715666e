"""Loading a language model that is spread over several devices, main memory and disk.

transformers places the modules and `accelerate` moves activations, and weights that lie on disk or
in main memory, to where they are used. The model runs without TransformerLens' bridge, which wants
it whole on one device.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_accelerate_available

from ..common.devices import resolve_device
from ..common.errors import InputError
from ..common.files import nearest
from ..device_map import DeviceMap
from .loading import Loaded, load_folder

_OFFLOADED = ("cpu", "disk")


def load_spread(path: Path, device_map: DeviceMap, dtype: torch.dtype | None) -> Loaded:
    """The model of a folder, its weights frozen and placed by the map, and its tokenizer.

    Weights are read from safetensors to their devices, one after the other; what lies on disk is
    read from these files whenever it is used.

    Raises InputError if accelerate is missing, a device of the map is not there, or the map or the
    folder do not suit.
    """
    if not is_accelerate_available():
        raise InputError(
            "device_map needs accelerate, which is not installed here; install it with "
            "`pip install accelerate`",
            field="device_map",
        )
    if path.is_file():
        raise InputError(
            f"{path} is a .gguf file, which is loaded whole; give a folder with safetensors, or "
            "leave device_map out",
            field="device_map",
        )
    if isinstance(device_map, dict):
        if set(device_map.values()) == {"disk"}:
            raise InputError(
                "device_map has all on disk, where nothing can be computed; give some module cpu "
                "or a GPU",
                field="device_map",
            )
        for device in device_map.values():
            if device not in _OFFLOADED:
                resolve_device(f"cuda:{device}" if isinstance(device, int) else device)
    with _without_warnings_of_accelerate():
        model, tokenizer = load_folder(path, dtype, device_map=device_map)
    if isinstance(device_map, dict):
        _require_all_placed(model, device_map)
    placed: Any = model.requires_grad_(False)
    placed.set_attn_implementation(placed.get_correct_attn_implementation(None))
    return model, tokenizer


@contextmanager
def _without_warnings_of_accelerate() -> Generator[None]:
    """It warns of weights that lie elsewhere, as they were asked to."""
    logger = logging.getLogger("accelerate")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def home_of(model: PreTrainedModel) -> torch.device:
    """Where a spread model takes its tokens and gives its logits: where it embeds the tokens."""
    embedding: Any = model.get_input_embeddings()
    # What accelerate keeps on a module; its weights may lie elsewhere until they are used.
    hook = getattr(embedding, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    if device is None:
        device = embedding.weight.device
    return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)


def _require_all_placed(model: PreTrainedModel, places: dict[str, int | str]) -> None:
    """Raise an InputError unless the map names modules of the model, and with them all weights;
    transformers passes over others."""
    network: Any = model
    known = {name for name, _ in network.named_modules()}
    if unknown := [name for name in places if name not in known]:
        near = nearest(unknown[0], known)
        hint = f"; perhaps you meant {near[0]}" if near else ""
        raise InputError(
            f"device_map has {unknown[0]}, which the model does not have{hint}", field="device_map"
        )
    for name, _ in network.named_parameters():
        above = name.split(".")
        if not any(".".join(above[:n]) in places for n in range(len(above))):
            raise InputError(
                f"device_map has no place for {name}; name its module, or one around it, too",
                field="device_map",
            )
