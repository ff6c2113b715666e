"""Folders of lm-saes 2024 (Llama Scope) and of its successors: by what their loaders do to the
weights and their `encode`, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae import InputError, SparseAutoencoder
from sparsteer.sae.common.tensor_files import load_tensors, save_tensors
from sparsteer.sae.interop.layouts import find
from sparsteer.sae.interop.llama_scope import stated

from .foreign_files import D, F, K, Tensors, X, check, llama_scope, llamascopium, topk, weights

NORM_IN, NORM_OUT = 10.8125, 3.390625
TRANSCODER = {
    "hook_point_in": "blocks.15.ln2.hook_normalized",
    "hook_point_out": "blocks.15.hook_mlp_out",
}


def positive(w: Tensors) -> Tensors:
    w["threshold"] = w["threshold"].abs() + 0.05
    return w


def as_loaded_in_2024(w: Tensors, into: float, out_of: float, unit: bool = True) -> Tensors:
    """Its loader: factors folded into biases and decoder, then decoder rows of norm 1."""
    W_dec = w["W_dec"] * into / out_of
    norms = row_norms(W_dec) if unit else torch.ones(F)
    return {
        "W_enc": w["W_enc"] * norms,
        "b_enc": w["b_enc"] / into * norms,
        "W_dec": W_dec / norms[:, None],
        "b_dec": w["b_dec"] / out_of,
    }


def kept(pre: Tensor, activation: str) -> Tensor:
    if activation == "topk":
        return topk(pre)
    return pre * (pre > (0 if activation == "relu" else 0.35546875))


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("activation", ["jumprelu", "topk", "relu"])
@pytest.mark.parametrize("transcoder", [False, True])
def test_llama_scope(tmp_path: Path, transcoder: bool, activation: str, unit: bool) -> None:
    """Latents are in the units of raw activations, for decoder rows of norm 1."""
    w = weights("b_enc")
    norms = {"in": NORM_IN, "out": NORM_OUT if transcoder else NORM_IN}
    keys: dict[str, Any] = {
        "act_fn": activation,
        "sparsity_include_decoder_norm": unit,
        "dataset_average_activation_norm": norms,
        **(TRANSCODER if transcoder else {}),
    }
    if activation == "topk":
        keys["jump_relu_threshold"] = 0.0
    sae = SparseAutoencoder.load(llama_scope(tmp_path, w, **keys))
    t = as_loaded_in_2024(w, math.sqrt(D) / norms["in"], math.sqrt(D) / norms["out"], unit)
    codes = kept(X @ t["W_enc"] + t["b_enc"], activation)
    check(sae, X, codes, codes @ t["W_dec"] + t["b_dec"])
    assert sae.config.transcoder == transcoder and sae.origin is not None
    assert sae.origin.model == "meta-llama/Llama-3.1-8B"
    assert sae.origin.target_site == (TRANSCODER["hook_point_out"] if transcoder else None)


def test_a_topk_with_a_threshold_stays_a_topk(tmp_path: Path) -> None:
    """Its loader says that it converts it, but goes on with the function that it made before."""
    folder = llama_scope(tmp_path, weights("b_enc"), act_fn="topk")
    assert SparseAutoencoder.load(folder).config.activation == "topk"
    assert stated(folder) == {}
    assert stated(llama_scope(tmp_path / "jumprelu", weights("b_enc"))) == {"l0": K}


def test_options_of_2024(tmp_path: Path) -> None:
    """No decoder bias; the bias subtracted first; rows normalized one by one; nothing scaled."""
    w = weights("b_enc")
    plain = as_loaded_in_2024(w, 1, 1)

    def codes_of(rows: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        return kept((rows - shift) @ plain["W_enc"] + plain["b_enc"], "jumprelu")

    folder = llama_scope(tmp_path / "a", w, norm_activation="inference", use_decoder_bias=False)
    with pytest.raises(InputError, match=r"no place for decoder\.bias"):
        SparseAutoencoder.load(folder)
    file = folder / "checkpoints" / "final.safetensors"
    stored = load_tensors(file, "")
    del stored["decoder.bias"]
    save_tensors(file, stored)
    check(SparseAutoencoder.load(folder), X, codes_of(X), codes_of(X) @ plain["W_dec"])
    keys = {"norm_activation": "inference", "apply_decoder_bias_to_pre_encoder": True}
    codes = codes_of(X, w["b_dec"])
    sae = SparseAutoencoder.load(llama_scope(tmp_path / "b", w, **keys))
    check(sae, X, codes, codes @ plain["W_dec"] + w["b_dec"])
    sae = SparseAutoencoder.load(llama_scope(tmp_path / "c", w, norm_activation="token-wise"))
    scale = row_norms(X)[:, None] / D**0.5
    codes = codes_of(X / scale)
    check(sae, X, codes, (codes @ plain["W_dec"] + w["b_dec"]) * scale)


@pytest.mark.parametrize("old_names", [True, False])
@pytest.mark.parametrize("weighs_norms", [True, False])
@pytest.mark.parametrize("transcoder", [False, True])
def test_llamascopium(
    tmp_path: Path, transcoder: bool, weighs_norms: bool, old_names: bool
) -> None:
    """Latents are of scaled activations; one is kept by its product with its decoder's norm."""
    w = positive(weights("b_enc", "threshold"))
    keys: dict[str, Any] = TRANSCODER if transcoder else {}
    folder = llamascopium(
        *(tmp_path, w), old_names=old_names, sparsity_include_decoder_norm=weighs_norms, **keys
    )
    sae = SparseAutoencoder.load(folder)
    into = math.sqrt(D) / NORM_IN
    out_of = math.sqrt(D) / NORM_OUT if transcoder else into
    pre = into * X @ w["W_enc"] + w["b_enc"]
    norms = row_norms(w["W_dec"]) if weighs_norms else torch.ones(F)
    codes = pre * (pre * norms > w["threshold"])
    check(sae, X, codes, (codes @ w["W_dec"] + w["b_dec"]) / out_of)
    assert sae.origin is not None
    assert sae.origin.model == "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"


def test_llamascopium_relu_and_topk(tmp_path: Path) -> None:
    """Of a topk that weighs norms, latents are those times the norm of a decoder row that is 1."""
    w = weights("b_enc")
    into = math.sqrt(D) / NORM_IN
    pre = into * X @ w["W_enc"] + w["b_enc"]
    sae = SparseAutoencoder.load(llamascopium(tmp_path / "relu", w, act_fn="relu"))
    check(sae, X, pre.relu(), (pre.relu() @ w["W_dec"] + w["b_dec"]) / into)
    norms = row_norms(w["W_dec"])
    codes = topk(pre * norms) / norms
    sae = SparseAutoencoder.load(llamascopium(tmp_path / "topk", w, act_fn="topk"))
    check(sae, X, codes * norms / into, (codes @ w["W_dec"] + w["b_dec"]) / into)
    torch.testing.assert_close(sae.decoder_norms(), torch.ones(F))
    folder = llamascopium(tmp_path / "plain", w, act_fn="topk", sparsity_include_decoder_norm=False)
    check(
        SparseAutoencoder.load(folder), X, topk(pre), (topk(pre) @ w["W_dec"] + w["b_dec"]) / into
    )


def test_folded_activation_scale(tmp_path: Path) -> None:
    w = positive(weights("b_enc", "threshold"))
    sae = SparseAutoencoder.load(llamascopium(tmp_path, w, norm_activation="inference"))
    pre = X @ w["W_enc"] + w["b_enc"]
    codes = pre * (pre * row_norms(w["W_dec"]) > w["threshold"])
    check(sae, X, codes, codes @ w["W_dec"] + w["b_dec"])


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"act_fn": "batchtopk"}, "act_fn is 'batchtopk', which is not read"),
    ({"sae_type": "clt"}, "sae_type is 'clt', but only sae"),
    ({"use_glu_encoder": True}, "use_glu_encoder is true"),
    ({"use_decoder_bias": "no"}, "use_decoder_bias is 'no', where true or false is needed"),
    ({"norm_activation": "batch-wise"}, "norm_activation is 'batch-wise'"),
    ({"norm_activation": ["in"]}, r"norm_activation is \['in'\]"),
    ({"norm_activation": "token-wise", **TRANSCODER}, "token-wise in a transcoder"),
    ({"dataset_average_activation_norm": {"in": 0}}, "is 0, where a number above 0"),
    ({"dataset_average_activation_norm": None}, "is None, where a number above 0"),
    ({"jump_relu_threshold": -1}, "jump_relu_threshold is -1"),
    ({"act_fn": "topk", "jump_relu_threshold": 0, "top_k": "many"}, "k is 'many'"),
    ({"d_sae": F + 1}, r"encoder.weight has shape \[57, 13\]"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_what_is_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    folder = llama_scope(tmp_path, weights("b_enc"), **keys)
    with pytest.raises(InputError, match=message):
        SparseAutoencoder.load(folder)


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    w = positive(weights("b_enc", "threshold"))
    folder = llamascopium(tmp_path, w)
    file = folder / "sae_weights.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert find(folder).layout == "llama_scope"
    with pytest.raises(InputError, match="cannot be read"):
        SparseAutoencoder.load(folder)
    del w["threshold"]
    w["threshold"] = torch.full((F,), torch.nan)
    with pytest.raises(InputError, match="log_jumprelu_threshold holds NaN or infinity"):
        SparseAutoencoder.load(llamascopium(tmp_path / "b", w))
    first = llama_scope(tmp_path, weights("b_enc"))
    (first / "hyperparams.json").write_text(json.dumps({"d_model": "wide"}))
    with pytest.raises(InputError, match="size of 'wide'"):
        SparseAutoencoder.load(first)
    (first / "checkpoints" / "final.safetensors").unlink()
    with pytest.raises(InputError, match=r"holds no sae_weights\.safetensors or"):
        SparseAutoencoder.load(first, layout="llama_scope")
