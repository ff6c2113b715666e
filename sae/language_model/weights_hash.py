"""One hash over the weights of a language model, by which it is known again."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from ..common.files import sha256_file
from .model_files import weight_files


def stored_weights_hash(path: Path) -> str:
    """SHA-256 over the tensors in a folder's safetensors files, in the order of their names; of a
    .gguf file that of the file."""
    if path.is_file():
        return sha256_file(path)
    digests: list[str] = []
    for file in weight_files(path):
        opened: Any = safe_open(file, framework="pt")
        with opened as tensors:
            digests += [_digest(name, tensors.get_tensor(name)) for name in tensors.keys()]
    return _together(digests)


def loaded_weights_hash(model: PreTrainedModel) -> str:
    """The same over the weights in memory, those that several modules share once."""
    weights: Any = model.named_parameters()
    return _together([_digest(name, weight.detach()) for name, weight in weights])


def _digest(name: str, tensor: Tensor) -> str:
    values: Any = tensor.cpu().contiguous().flatten().view(torch.uint8).numpy()
    return f"{name} {tensor.dtype} {list(tensor.shape)} {hashlib.sha256(values).hexdigest()}\n"


def _together(digests: list[str]) -> str:
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
