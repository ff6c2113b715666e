"""Autoencoders and transcoders of sparsify, saved and loaded by it; runs in its environment."""

import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from exchange import Case, Coder, Sizes, Weights, run
from torch import Tensor

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its kernel needs a GPU
_sparsify: Any = importlib.import_module("sparsify")


def _coder(coder: Any) -> Coder:
    def encode(rows_ND: Tensor) -> Tensor:
        values_NK, indices_NK, pre_NF = coder.encode(rows_ND)
        return torch.zeros_like(pre_NF).scatter(1, indices_NK, values_NK)

    return Coder(encode, lambda rows_ND: coder(rows_ND).sae_out)


def _loaded(path: Path) -> Coder:
    return _coder(_sparsify.SparseCoder.load_from_disk(path).float())


def _saved(
    *,
    bias: float = 0.0,
    factor: bool = False,
    dtype: torch.dtype = torch.float32,
    further: dict[str, Any] | None = None,
    **settings: Any,
) -> Callable[[Sizes, Path], Coder]:
    """Saved by `save_to_disk` and loaded again; `factor` names the width by expansion_factor."""

    def write(sizes: Sizes, path: Path) -> Coder:
        width = {"expansion_factor": sizes.latents // sizes.width}
        own = width if factor else {"num_latents": sizes.latents}
        config = _sparsify.SparseCoderConfig(
            **{"normalize_decoder": False, "k": sizes.k, **own, **settings}
        )
        coder = _sparsify.SparseCoder(sizes.width, config, dtype=dtype)
        weights = Weights(sizes, f"sparsify {settings}", bias)
        state = {
            "encoder.weight": weights["W_enc"].T,
            "encoder.bias": weights["b_enc"],
            **weights.take("W_dec", "b_dec", *(["W_skip"] if config.skip_connection else [])),
        }
        coder.load_state_dict(state)
        if config.normalize_decoder:
            coder.set_decoder_norm_to_unit_norm()
        coder.save_to_disk(path)
        if further:
            file = path / "cfg.json"
            values = json.loads(file.read_text(encoding="utf-8"))
            file.write_text(json.dumps(values | further), encoding="utf-8")
        return _loaded(path)

    return write


CASES = [
    Case("sae", "norms not one", _saved()),
    Case("sae-unit-rows", "normalize_decoder true", _saved(normalize_decoder=True)),
    Case("sae-few-positive", "rows with fewer than k positive pre-activations", _saved(bias=-2.0)),
    Case("sae-num-latents-zero", "num_latents 0, so expansion_factor counts", _saved(factor=True)),
    Case("sae-skip", "an autoencoder with W_skip", _saved(skip_connection=True)),
    Case("transcoder", "b_dec not subtracted", _saved(transcode=True)),
    Case(
        "skip-transcoder",
        "b_dec not subtracted, W_skip",
        _saved(transcode=True, skip_connection=True),
    ),
    Case("sae-bfloat16", "weights in bfloat16", _saved(dtype=torch.bfloat16)),
    Case("sae-old-keys", "keys that newer versions drop", _saved(further={"signed": False})),
    Case("sae-groupmax", "the largest latent of each of k groups", _saved(activation="groupmax")),
    Case(
        "sae-groupmax-few-positive",
        "groups without a positive pre-activation",
        _saved(activation="groupmax", bias=-2.0),
    ),
]

if __name__ == "__main__":
    run({"sparsify": CASES}, _loaded)
