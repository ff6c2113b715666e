"""The identity of an autoencoder: a hash of its configuration and weights."""

import hashlib

import torch

from .autoencoder import SparseAutoencoder
from .config import config_to_dict


def sae_fingerprint(sae: SparseAutoencoder) -> str:
    """SHA-256 over configuration and weights; where it is stored or came from does not matter."""
    digest = hashlib.sha256(repr(sorted(config_to_dict(sae.config).items())).encode())
    for name, tensor in sorted(sae.tensors().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(values.numpy().data)
    return digest.hexdigest()
