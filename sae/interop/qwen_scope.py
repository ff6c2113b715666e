"""The layout `qwen_scope`: a file `layerN.sae.pt` of Qwen-Scope (arXiv 2605.11887); it is only
read."""

import re
from pathlib import Path

import torch

from ..autoencoder import SparseAutoencoder
from ..common.errors import InputError
from ..config import Origin, TopKConfig
from .model_names import loadable_name
from .reading import ForeignTensors, build, config_of, fits, only_file, origin_from, read_tensors

_NAMES = [frozenset(("W_enc", "W_dec", "b_enc", "b_dec"))]
_FILES = "layer*.sae.pt"
_CALLED = r"layer(?P<layer>\d+)\.sae\.pt"
_REPOSITORY = re.compile(r"SAE-Res-(?P<model>[\w.-]+?)-W\d+K-L0_\d+")
_K = re.compile(r"L0_(\d+)")


def recognizes(path: Path) -> bool:
    """Whether it is such a file, or a folder that holds some."""
    files = path.glob(_FILES) if path.is_dir() else [path]
    return any(fits(file, _NAMES, _CALLED) for file in files if file.suffix == ".pt")


@torch.no_grad()
def read(path: Path) -> SparseAutoencoder:
    """The top-k autoencoder in a file: the k largest of x @ W_enc^T + b_enc, without b_dec.

    Latents are not negative, as in SAELens; the example on the model cards has no ReLU, which
    differs in a row with fewer than k positive ones.
    The file does not say k. The release has it in the name of the repository, `...-L0_50`, so k is
    the last such number in the path; the same name says the language model.

    Raises:
        InputError: the file is damaged, holds other tensors, or nothing in its path says k.
    """
    file = only_file(path, _FILES)
    found = ForeignTensors(read_tensors(file), file)
    ours = {
        "W_enc": found.take("W_enc", "F", "D"),
        "b_enc": found.take("b_enc", "F"),
        "W_dec": found.take("W_dec", "D", "F").T,
        "b_dec": found.take("b_dec", "D"),
    }
    found.finish()
    place = str(file.absolute())
    stated = _K.findall(place)
    if not stated:
        raise InputError(
            f"{file} does not say how many latents its top-k keeps, which Qwen-Scope says only in "
            "the repository's name; put the file into a folder with L0_50 in its name, for k = 50"
        )
    config = config_of(TopKConfig, found, file, k=int(stated[-1]), apply_b_dec_to_input=False)
    return build(config, ours, _origin_of(file, place))


def _origin_of(file: Path, place: str) -> Origin | None:
    repository, layer = _REPOSITORY.search(place), re.fullmatch(_CALLED, file.name)
    if repository is None or layer is None:
        return None
    model = loadable_name(f"Qwen/{repository['model']}")
    return origin_from(model, f"blocks.{layer['layer']}.hook_resid_post", prepends_bos=False)
