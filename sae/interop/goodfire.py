"""The layout `goodfire`: a torch file with the state of two `nn.Linear`, as Goodfire and qresearch
released autoencoders; it is only read."""

import re
from pathlib import Path

import torch

from ..autoencoder import SparseAutoencoder
from ..config import Origin, ReLUConfig
from .model_names import loadable_name
from .reading import ForeignTensors, build, config_of, fits, only_file, origin_from, read_tensors

_LINEARS = {"goodfire": ("encoder_linear", "decoder_linear"), "qresearch": ("encoder", "decoder")}
"""The names of encoder and decoder with either publisher."""
_NAMES = [
    frozenset(f"{linear}.{part}" for linear in pair for part in ("weight", "bias"))
    for pair in _LINEARS.values()
]
_FILES = "*-SAE-l*.pt*"
_CALLED = r"(?P<model>.+)-SAE-l(?P<layer>\d+)\.pth?"


def recognizes(path: Path) -> bool:
    """Whether it is such a file, or a folder that holds one."""
    files = path.glob(_FILES) if path.is_dir() else [path]
    return any(fits(file, _NAMES, _CALLED) for file in files if file.suffix in (".pt", ".pth"))


@torch.no_grad()
def read(path: Path) -> SparseAutoencoder:
    """The ReLU autoencoder in a file: codes are relu(x @ W_enc^T + b_enc), without b_dec.

    The language model and the layer are those of the file's name (`MODEL-SAE-lLAYER.pt`). Goodfire
    reads the residual stream after the block, qresearch before it, as the publishers' examples do.

    Raises:
        InputError: the file is damaged or holds other tensors.
    """
    file = only_file(path, _FILES)
    found = ForeignTensors(read_tensors(file), file)
    publisher = "goodfire" if "encoder_linear.weight" in found else "qresearch"
    encoder, decoder = _LINEARS[publisher]
    ours = {
        "W_enc": found.take(f"{encoder}.weight", "F", "D"),
        "b_enc": found.take(f"{encoder}.bias", "F"),
        "W_dec": found.take(f"{decoder}.weight", "D", "F").T,
        "b_dec": found.take(f"{decoder}.bias", "D"),
    }
    found.finish()
    config = config_of(ReLUConfig, found, file, apply_b_dec_to_input=False)
    return build(config, ours, _origin_of(file, publisher))


def _origin_of(file: Path, publisher: str) -> Origin | None:
    named = re.fullmatch(_CALLED, file.name)
    if named is None:
        return None
    model = named["model"]
    owner = "deepseek-ai/" if model.startswith("DeepSeek") else ""
    site = "hook_resid_post" if publisher == "goodfire" else "hook_resid_pre"
    return origin_from(
        loadable_name(owner + model), f"blocks.{named['layer']}.{site}", prepends_bos=True
    )
