"""Files as public releases have them, which no library writes, loaded by SAELens' own loaders; runs
in its environment.

Each file lies where the release has it, below the name of its repository.
"""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from exchange import Case, Coder, Sizes, Weights, run
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType] - its path type is an open generic
from torch import Tensor

_loaders: Any = importlib.import_module("sae_lens.loading.pretrained_sae_loaders")
_sae: Any = importlib.import_module("sae_lens.saes").SAE
_JUMP = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
_FIRST_FOLDER = "layer_20/width_16k/average_l0_71"
_SECOND = "google/gemma-scope-2-1b-pt"
_QWEN = "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_4"


def _loaded(loader: str, root: Path, repository: str, name: str, sizes: Sizes) -> Coder:
    """What a loader of SAELens makes of a file below `root`, in place of one on the hub."""

    def local(repo_id: str, filename: str, subfolder: str = "", **_: Any) -> str:
        return str(root / repo_id / subfolder / filename)

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        held = load_file(root / repo_id / filename)
        return {key: list(tensor.shape) for key, tensor in held.items()}

    def converter(**given: Any) -> Any:
        # The loaders take sizes from the release's names.
        given["cfg_overrides"] = {
            **(given.pop("cfg_overrides") or {}),
            "d_in": sizes.width,
            "d_sae": sizes.latents,
            **({"d_out": sizes.width} if "transcoder" in f"{repository}/{name}" else {}),
        }
        return getattr(_loaders, loader)(**given)

    _loaders.hf_hub_download, _loaders.get_safetensors_tensor_shapes = local, shapes
    sae = _sae.from_pretrained(repository, name, converter=converter)
    return Coder(sae.encode, sae)


def _first(
    repository: str, loader: str = "gemma_2_sae_huggingface_loader"
) -> Callable[[Sizes, Path], Coder]:
    """Gemma Scope: `params.npz`."""

    def write(sizes: Sizes, path: Path) -> Coder:
        place = path / repository / _FIRST_FOLDER
        place.mkdir(parents=True)
        weights = Weights(sizes, repository).take(*_JUMP)
        arrays = {name: tensor.numpy() for name, tensor in weights.items()}
        np.savez(place / "params.npz", allow_pickle=False, **arrays)
        return _loaded(loader, path, repository, _FIRST_FOLDER, sizes)

    return write


def _second(folder: str, site: str, target: str, *, affine: bool) -> Callable[[Sizes, Path], Coder]:
    """Gemma Scope 2: `config.json` and `params.safetensors`."""

    def write(sizes: Sizes, path: Path) -> Coder:
        place = path / _SECOND / folder
        place.mkdir(parents=True)
        weights = Weights(sizes, folder)
        held: dict[str, Tensor] = {name.lower(): weights[name] for name in _JUMP}
        if affine:
            held["affine_skip_connection"] = weights["W_skip"]
        save_file(held, place / "params.safetensors")
        config = {
            "hf_hook_point_in": f"model.layers.12.{site}",
            "hf_hook_point_out": f"model.layers.12.{target}",
            "width": sizes.latents,
            "model_name": "google/gemma-3-1b-pt",
            "architecture": "jump_relu",
            "l0": 40,
            "affine_connection": affine,
            "type": "transcoder" if "transcoder" in folder else "sae",
        }
        (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return _loaded("gemma_3_sae_huggingface_loader", path, _SECOND, folder, sizes)

    return write


def _goodfire(sizes: Sizes, path: Path) -> Coder:
    name = "Llama-3.1-8B-Instruct-SAE-l19"
    repository = f"Goodfire/{name}"
    (path / repository).mkdir(parents=True)
    weights = Weights(sizes, repository)
    state = {
        "encoder_linear.weight": weights["W_enc"].T.contiguous(),
        "encoder_linear.bias": weights["b_enc"],
        "decoder_linear.weight": weights["W_dec"].T.contiguous(),
        "decoder_linear.bias": weights["b_dec"],
    }
    torch.save(state, path / repository / f"{name}.pth")
    return _loaded("get_goodfire_huggingface_loader", path, repository, f"{name}.pth", sizes)


def _qwen(sizes: Sizes, path: Path) -> Coder:
    (path / _QWEN).mkdir(parents=True)
    weights = Weights(sizes, _QWEN)
    state = {
        "W_enc": weights["W_enc"].T.contiguous(),
        "W_dec": weights["W_dec"].T.contiguous(),
        **weights.take("b_enc", "b_dec"),
    }
    torch.save(state, path / _QWEN / "layer0.sae.pt")
    return _loaded("qwen_scope_sae_huggingface_loader", path, _QWEN, "layer0.sae.pt", sizes)


_RESIDUAL = "resid_post/layer_12_width_16k_l0_small"
_PLAIN = "transcoder/layer_12_width_16k_l0_small"
_BEFORE, _AFTER = "pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"
CASES = {
    "gemma_scope": [
        Case(
            "first",
            "Gemma Scope: b_dec not subtracted, norms not one",
            _first("google/gemma-scope-2b-pt-res"),
            f"google/gemma-scope-2b-pt-res/{_FIRST_FOLDER}",
        ),
        Case(
            "first-transcoder",
            "only the repository's name says that it is a transcoder",
            _first("google/gemma-scope-2b-pt-transcoders", "gemma_2_transcoder_huggingface_loader"),
            f"google/gemma-scope-2b-pt-transcoders/{_FIRST_FOLDER}",
        ),
        Case(
            "second",
            "Gemma Scope 2: names of tensors in small letters",
            _second(_RESIDUAL, "output", "output", affine=False),
            f"{_SECOND}/{_RESIDUAL}",
        ),
        Case(
            "second-transcoder",
            "Gemma Scope 2",
            _second(_PLAIN, _BEFORE, _AFTER, affine=False),
            f"{_SECOND}/{_PLAIN}",
        ),
        Case(
            "second-affine-transcoder",
            "a skip connection stored as [in, out]",
            _second(f"{_PLAIN}_affine", _BEFORE, _AFTER, affine=True),
            f"{_SECOND}/{_PLAIN}_affine",
        ),
    ],
    "goodfire": [
        Case(
            "goodfire",
            "two linear layers, b_dec not subtracted",
            _goodfire,
            "Goodfire/Llama-3.1-8B-Instruct-SAE-l19/Llama-3.1-8B-Instruct-SAE-l19.pth",
        )
    ],
    "qwen_scope": [
        Case(
            "qwen-scope",
            "top-k whose k only the repository's name says, W_enc [F, D]",
            _qwen,
            f"{_QWEN}/layer0.sae.pt",
        )
    ],
}

if __name__ == "__main__":
    run(CASES)
