"""Autoencoders of OpenAI's sparse_autoencoder, saved and loaded by its model.py.

The package is in no registry: the environment variable `OPENAI_SPARSE_AUTOENCODER` names a
checkout of github.com/openai/sparse_autoencoder.
"""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from exchange import Case, Coder, Sizes, Weights, run

VARIABLE = "OPENAI_SPARSE_AUTOENCODER"
_FILE = "3.pt"


def _imported() -> Any:
    """model.py alone: its package would import kernels for a GPU."""
    file = Path(os.environ[VARIABLE]) / "sparse_autoencoder" / "model.py"
    spec = importlib.util.spec_from_file_location("model", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_model: Any = _imported()


def _loaded(path: Path) -> Coder:
    autoencoder = _model.Autoencoder.from_state_dict(torch.load(path))
    return Coder(
        lambda rows_ND: autoencoder.encode(rows_ND)[0], lambda rows_ND: autoencoder(rows_ND)[2]
    )


def _saved(
    activation: Callable[[Sizes], Any], *, bias: float = 0.0
) -> Callable[[Sizes, Path], Coder]:
    """Its state saved by `torch.save`, and loaded from there."""

    def write(sizes: Sizes, path: Path) -> Coder:
        autoencoder = _model.Autoencoder(sizes.latents, sizes.width, activation=activation(sizes))
        weights = Weights(sizes, f"openai {bias}", bias)
        own = {
            "encoder.weight": weights["W_enc"].T.contiguous(),
            "latent_bias": weights["b_enc"],
            "pre_bias": weights["b_dec"],
            "decoder.weight": weights["W_dec"].T.contiguous(),
        }
        # Its strict loader refuses what its own `state_dict` adds of the activation.
        kept = {
            name: value
            for name, value in autoencoder.state_dict().items()
            if not name.startswith("activation.")
        }
        state = {**kept, **own}
        torch.save(state, path / _FILE)
        return _loaded(path / _FILE)

    return write


def _top_k(sizes: Sizes) -> Any:
    return _model.TopK(sizes.k)


CASES = [
    Case("relu", "version 1: ReLU, no normalization", _saved(lambda sizes: torch.nn.ReLU()), _FILE),
    Case("topk", "version 5: top-k of layer-normed rows", _saved(_top_k), _FILE),
    Case(
        "topk-few-positive",
        "rows with fewer than k positive pre-activations",
        _saved(_top_k, bias=-1.2),
        _FILE,
    ),
]

if __name__ == "__main__":
    run({"openai": CASES}, _loaded)
