"""The layout `openai`: a `.pt` file of OpenAI's sparse_autoencoder (arXiv 2406.04093); it is only
read."""

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from ..autoencoder import SparseAutoencoder
from ..common.errors import InputError
from ..config import ReLUConfig, TopKConfig
from .reading import COPY_AGAIN, ForeignTensors, as_object, build, config_of, read_pickled

_MARK = b"latent_bias"
"""The name of a tensor that no other library has."""
_HEAD = 1 << 16
_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")


def recognizes(path: Path) -> bool:
    """Whether it is a torch file that names this library's tensors; nothing is unpickled."""
    if path.suffix != ".pt" or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            return any(_MARK in archive.read(name) for name in pickles)
    except (zipfile.BadZipFile, OSError):
        with path.open("rb") as file:  # before torch 1.6 it was no archive
            return _MARK in file.read(_HEAD)


@torch.no_grad()
def read(path: Path) -> SparseAutoencoder:
    """The autoencoder in the file: ReLU on raw rows, or top-k on layer-normed ones.

    Which of the two follows from the activation alone, as in the library: its top-k autoencoders
    subtract a row's mean and divide by its deviation first, and undo both last.

    Raises:
        InputError: the file is damaged, holds what only unpickling could read, or names another
            activation.
    """
    given = as_object(read_pickled(path))
    if not given:
        raise InputError(f"{path} holds no tensors by name; {COPY_AGAIN}")
    activation = given.get("activation", "ReLU")
    if activation not in ("ReLU", "TopK"):
        raise InputError(f"{path}: activation is {activation!r}, which is neither ReLU nor TopK")
    found = ForeignTensors(
        {name: value for name, value in given.items() if isinstance(value, Tensor)}, path
    )
    found.drop(*_STATISTICS)
    ours = {
        "W_enc": found.take("encoder.weight", "F", "D"),
        "b_enc": found.take("latent_bias", "F"),
        "W_dec": found.take("decoder.weight", "D", "F").T,
        "b_dec": found.take("pre_bias", "D"),
    }
    found.finish()
    if activation == "ReLU":
        return build(config_of(ReLUConfig, found, path), ours, None)
    settings = as_object(given.get("activation_state_dict"))
    after = settings.get("postact_fn", "ReLU")
    if after != "ReLU":
        raise InputError(
            f"{path}: TopK is followed by {after!r}, but only latents after a ReLU can be read"
        )
    config = config_of(
        TopKConfig, found, path, k=settings.get("k"), normalize_activations="layer_norm"
    )
    return build(config, ours, None)
