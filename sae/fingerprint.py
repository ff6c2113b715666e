"""The identity of an autoencoder: a hash of its configuration and weights."""

import hashlib

import torch

from .autoencoder import SparseAutoencoder
from .common.old_names import RENAMED_TENSORS
from .config import config_to_dict

_FIRST = {new: old for old, new in RENAMED_TENSORS.items()}
"""Tensors keep their first names in a fingerprint, so that earlier indexes and
picks still fit."""


def sae_fingerprint(sae: SparseAutoencoder) -> str:
    """SHA-256 over configuration and weights; where it is stored or came from does not matter."""
    config = config_to_dict(sae.activation.described_config(sae))
    digest = hashlib.sha256(repr(sorted(config.items())).encode())
    for name, tensor in sorted(sae.tensors().items()):
        digest.update(f"{_FIRST.get(name, name)} {tensor.dtype} {list(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(values.numpy().data)
    return digest.hexdigest()
