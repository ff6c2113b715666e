"""Tiny files of other libraries with random weights, and the parts of tests that compare them with
the libraries' formulas.

Each function writes what one library publishes, from tensors of `weights`, and gives the path that
is loaded. Paths have the names that releases have, for some say there what files leave out.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsteer.sae import SparseAutoencoder
from sparsteer.sae.common.tensor_files import save_tensors

D, F, K = 13, 57, 5
X = 3 * torch.randn(29, D, generator=torch.Generator().manual_seed(5)) + 0.5
Tensors = dict[str, Tensor]


def weights(*further: str) -> Tensors:
    """Random W_enc [D, F], W_dec [F, D], b_dec and further tensors, with decoder rows of many
    norms."""
    random = torch.Generator().manual_seed(11)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    made = {
        "W_enc": normal(D, F) / D**0.5,
        "W_dec": normal(F, D) * (0.2 + 2 * torch.rand(F, 1, generator=random)),
        "b_dec": normal(D),
        "b_enc": 0.3 * normal(F),
        "threshold": (normal(F) * 0.5).abs() - 0.1,
        "b_gate": 0.3 * normal(F),
        "b_mag": 0.3 * normal(F),
        "r_mag": 0.3 * normal(F),
        "W_skip": 0.1 * normal(D, D),
        "scaling_factor": 0.5 + torch.rand(F, generator=random),
        "topk_threshold": torch.tensor(0.4, dtype=torch.float64),
    }
    return {name: made[name] for name in ("W_enc", "W_dec", "b_dec", *further)}


def topk(pre: Tensor) -> Tensor:
    """The K largest of each row, where they are positive."""
    top = pre.topk(K)
    return torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())


def check(sae: SparseAutoencoder, x: Tensor, codes: Tensor, output: Tensor) -> None:
    """Assert that the autoencoder gives these codes [N, F] and this output [N, D]."""
    assert 0 < (codes > 0).float().mean() < 1
    torch.testing.assert_close(sae.encode(x).dense(F), codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae(x), output, rtol=1e-5, atol=1e-5)


def gemma_scope(path: Path, w: Tensors, release: str = "gemma-scope-2b-pt-res") -> Path:
    """The folder with `params.npz` of the first Gemma Scope."""
    folder = path / release / "layer_12" / "width_16k" / "average_l0_82"
    folder.mkdir(parents=True)
    names = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
    arrays: dict[str, Any] = {name: w[name].numpy() for name in names}
    np.savez(folder / "params.npz", **arrays)
    return folder


def gemma_scope_2(path: Path, w: Tensors, kind: str = "resid_post", **config: Any) -> Path:
    """The folder with `params.safetensors` of Gemma Scope 2, and `config.json` if keys are given;
    with a W_skip [out, in] the affine connection."""
    folder = path / "gemma-scope-2-1b-pt" / kind / "layer_13_width_16k_l0_small"
    folder.mkdir(parents=True)
    stored = {"w_enc": w["W_enc"], "w_dec": w["W_dec"], "b_enc": w["b_enc"], "b_dec": w["b_dec"]}
    stored["threshold"] = w["threshold"]
    if "W_skip" in w:
        stored["affine_skip_connection"] = w["W_skip"].T
    save_tensors(folder / "params.safetensors", stored)
    if config:
        given = {"architecture": "jump_relu", "model_name": "google/gemma-3-1b-pt", "l0": 20}
        (folder / "config.json").write_text(json.dumps(given | {"width": F} | config))
    return folder


def llama_scope(path: Path, w: Tensors, **hyperparameters: Any) -> Path:
    """The folder of lm-saes 2024 with `hyperparams.json`, as Llama Scope was released."""
    folder = path / "Llama3_1-8B-Base-L15R-8x"
    (folder / "checkpoints").mkdir(parents=True)
    given = {
        "hook_point_in": "blocks.15.hook_resid_post",
        "hook_point_out": "blocks.15.hook_resid_post",
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "d_model": D,
        "d_sae": F,
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.35546875,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": 10.8125, "out": 10.8125},
        "sparsity_include_decoder_norm": True,
        "use_glu_encoder": False,
        "top_k": K,
    }
    (folder / "hyperparams.json").write_text(json.dumps(given | hyperparameters))
    save_tensors(folder / "checkpoints" / "final.safetensors", linears(w))
    return folder


def llamascopium(path: Path, w: Tensors, *, old_names: bool = False, **config: Any) -> Path:
    """The folder of llamascopium with `config.json`; with `old_names` that of lm-saes 2025, as
    Llama-Scope-R1-Distill was released."""
    folder = path / "Llama-Scope-R1-Distill" / "L15R"
    folder.mkdir(parents=True)
    site = "blocks.15.hook_resid_post"
    given = {
        "sae_type": "sae",
        "hook_point_in": site,
        "hook_point_out": site,
        "d_model": D,
        "expansion_factor": F / D,
        "act_fn": "jumprelu",
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": True,
        "top_k": K,
    } | config
    stored = {
        "W_E": w["W_enc"],
        "b_E": w["b_enc"],
        "W_D": w["W_dec"],
        "b_D": w["b_dec"],
    }
    stored = linears(w) if old_names else stored
    for end, norm in (("in", 10.8125), ("out", 3.390625)):
        if end == "in" or given["hook_point_out"] != site:
            name = f"dataset_average_activation_norm.{given[f'hook_point_{end}']}"
            stored[name] = torch.tensor(norm)
    if given["act_fn"] == "jumprelu":
        prefix = "" if old_names else "activation_function."
        stored[f"{prefix}log_jumprelu_threshold"] = w["threshold"].log()
    (folder / "config.json").write_text(json.dumps(given))
    save_tensors(folder / "sae_weights.safetensors", stored)
    return folder


def qwen_scope(
    path: Path, w: Tensors, repository: str = f"SAE-Res-Qwen3-8B-Base-W64K-L0_{K}"
) -> Path:
    """The file `layer12.sae.pt` of Qwen-Scope."""
    (path / repository).mkdir(parents=True)
    stored = {"W_enc": w["W_enc"].T, "W_dec": w["W_dec"].T, "b_enc": w["b_enc"]}
    return saved(path / repository / "layer12.sae.pt", stored | {"b_dec": w["b_dec"]})


def goodfire(path: Path, w: Tensors) -> Path:
    """The file of one of Goodfire's releases."""
    path.mkdir(parents=True, exist_ok=True)
    stored = {name.replace("coder.", "coder_linear."): value for name, value in linears(w).items()}
    return saved(path / "Llama-3.1-8B-Instruct-SAE-l19.pth", stored)


def qresearch(path: Path, w: Tensors) -> Path:
    """The file of one of qresearch's releases."""
    path.mkdir(parents=True, exist_ok=True)
    return saved(path / "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt", linears(w))


def circuit_tracer(path: Path, w: Tensors, layer: int = 3) -> Path:
    """A transcoder's file beside the configuration of its set."""
    path.mkdir(parents=True, exist_ok=True)
    stored = {"W_enc": w["W_enc"].T, "W_dec": w["W_dec"], "b_enc": w["b_enc"], "b_dec": w["b_dec"]}
    if "threshold" in w:
        stored["activation_function.threshold"] = w["threshold"]
    if "W_skip" in w:
        stored["W_skip"] = w["W_skip"]
    (path / "config.yaml").write_text(
        'model_name: "Qwen/Qwen3-4B"\n'
        "model_kind: transcoder_set\n"
        "feature_input_hook: mlp.hook_in\n"
        "feature_output_hook: hook_mlp_out\n"
        "scan: some/set\n"
    )
    save_tensors(path / f"layer_{layer}.safetensors", stored)
    return path / f"layer_{layer}.safetensors"


def linears(w: Tensors) -> Tensors:
    """The state of two `nn.Linear`, `encoder` and `decoder`."""
    return {
        "encoder.weight": w["W_enc"].T,
        "encoder.bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T,
        "decoder.bias": w["b_dec"],
    }


def saved(file: Path, tensors: Tensors) -> Path:
    """A torch file of the tensors."""
    torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return file
