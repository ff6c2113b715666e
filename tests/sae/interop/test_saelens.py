"""Folders of SAELens: each architecture by the formula that SAELens has, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae import InputError, SparseAutoencoder
from sparsteer.sae.common.tensor_files import save_tensors
from sparsteer.sae.interop.export import export
from sparsteer.sae.interop.saelens_keys import to_saelens

from .foreign_files import D, F, K, X, check, topk, weights

METADATA = {
    "sae_lens_version": "6.54.12",
    "model_name": "gpt2-small",
    "hook_name": "blocks.3.hook_resid_pre",
    "context_size": 77,
    "prepend_bos": True,
    "dataset_path": "some/text",
}


def folder(path: Path, kind: str, tensors: dict[str, Tensor], **keys: Any) -> Path:
    path.mkdir()
    config = {"architecture": kind, "d_in": D, "d_sae": F, "dtype": "float32"}
    config |= {"metadata": METADATA, **keys}
    (path / "cfg.json").write_text(json.dumps(config))
    save_tensors(path / "sae_weights.safetensors", tensors)
    return path


def loaded(path: Path, architecture: str, tensors: dict[str, Tensor], **keys: Any) -> Any:
    return SparseAutoencoder.load(folder(path, architecture, tensors, **keys))


@pytest.mark.parametrize("subtracts", [True, False])
def test_standard(tmp_path: Path, subtracts: bool) -> None:
    w = weights("b_enc")
    sae = loaded(tmp_path / "s", "standard", w, apply_b_dec_to_input=subtracts)
    assert sae.config.activation == "relu"
    codes = ((X - subtracts * w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    check(sae, X, codes, codes @ w["W_dec"] + w["b_dec"])
    assert sae.origin.model == "openai-community/gpt2"
    assert (sae.origin.site, sae.origin.weights_hash) == ("blocks.3.hook_resid_pre", None)
    assert (sae.origin.context_length, sae.origin.prepends_bos) == (77, True)


@pytest.mark.parametrize("rescaled", [True, False])
@pytest.mark.parametrize("rows", [1, 29])
def test_topk(tmp_path: Path, rescaled: bool, rows: int) -> None:
    """With few positive pre-activations in some rows, and decoder norms that are not 1."""
    w = weights("b_enc")
    w["b_enc"] -= 5
    sae = loaded(tmp_path / "s", "topk", w, k=K, rescale_acts_by_decoder_norm=rescaled)
    pre = (X[:rows] - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    assert rows == 1 or ((pre > 0).sum(1) < K).any()
    norms = row_norms(w["W_dec"]) if rescaled else torch.ones(F)
    codes = topk(pre * norms)
    check(sae, X[:rows], codes, (codes / norms) @ w["W_dec"] + w["b_dec"])


def test_jumprelu_with_thresholds_below_zero(tmp_path: Path) -> None:
    w = weights("b_enc", "threshold")
    assert (w["threshold"] < 0).any()
    sae = loaded(tmp_path / "s", "jumprelu", w)
    pre = (X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    codes = pre.relu() * (pre > w["threshold"])
    check(sae, X, codes, codes @ w["W_dec"] + w["b_dec"])


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_a_batchtopk_checkpoint_is_the_jumprelu_that_it_becomes(
    tmp_path: Path, architecture: str
) -> None:
    w = weights("b_enc", "topk_threshold")
    keys = {"k": 5.0, "rescale_acts_by_decoder_norm": True}
    sae = loaded(tmp_path / "s", architecture, w, **keys)
    norms = row_norms(w["W_dec"])
    pre = ((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norms
    codes = pre * (pre > 0.4)
    check(sae, X, codes, (codes / norms) @ w["W_dec"] + w["b_dec"])


def test_gated(tmp_path: Path) -> None:
    w = weights("b_gate", "b_mag", "r_mag")
    sae = loaded(tmp_path / "s", "gated", w)
    assert sae.config.activation == "gated"
    centered = X - w["b_dec"]
    gates = centered @ w["W_enc"] + w["b_gate"] > 0
    codes = gates * (centered @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]).relu()
    assert (gates.sum(1) > (codes > 0).sum(1)).any()
    check(sae, X, codes, codes @ w["W_dec"] + w["b_dec"])
    used = sae.encode(X)
    assert used.counts is not None and ((used.values > 0).sum(1) == used.counts).all()


@pytest.mark.parametrize("normalization", ["constant_norm_rescale", "layer_norm"])
def test_normalized_rows(tmp_path: Path, normalization: str) -> None:
    w = weights("b_enc")
    sae = loaded(tmp_path / "s", "standard", w, normalize_activations=normalization)
    if normalization == "layer_norm":
        shift = X.mean(1, keepdim=True)
        scale = (X - shift).std(1, keepdim=True)
        rows = (X - shift) / (scale + 1e-5)
    else:
        shift, scale = 0.0, row_norms(X)[:, None] / D**0.5
        rows = X / scale
    codes = ((rows - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    check(sae, X, codes, (codes @ w["W_dec"] + w["b_dec"]) * scale + shift)
    rounded = sae.encode(X.bfloat16())  # normalized in the weights' dtype, as SAELens does
    assert torch.equal(rounded.dense(F), sae.encode(X.bfloat16().float()).dense(F))
    again = sae.encode(X.view(1, 29, D))
    torch.testing.assert_close(sae.decode(again)[0], sae(X))
    with pytest.raises(ValueError, match="take them from encode"):
        sae.decode(again._replace(row_scale=None))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("jumps", [False, True])
def test_transcoders(tmp_path: Path, skip: bool, jumps: bool) -> None:
    architecture = "jumprelu_" * jumps + "skip_" * skip + "transcoder"
    w = weights("b_enc", *["threshold"] * jumps, *["W_skip"] * skip)
    metadata = {**METADATA, "hook_name_out": "blocks.3.hook_mlp_out"}
    sae = loaded(tmp_path / "s", architecture, w, d_out=D, metadata=metadata)
    pre = X @ w["W_enc"] + w["b_enc"]
    codes = pre.relu() * (pre > w["threshold"]) if jumps else pre.relu()
    skipped = X @ w["W_skip"].T if skip else 0
    check(sae, X, codes, codes @ w["W_dec"] + w["b_dec"] + skipped)
    assert sae.origin.target_site == "blocks.3.hook_mlp_out"


def test_an_old_flat_configuration(tmp_path: Path) -> None:
    w = weights("b_enc", "scaling_factor")
    keys = {
        "hook_point": "blocks.3.hook_resid_pre",
        "model_name": "pythia-70m-deduped",
        "activation_fn_str": "relu",
        "normalize_activations": False,
        "finetuning_scaling_factor": True,
    }
    path = folder(tmp_path / "s", "standard", w, **keys)
    config = json.loads((path / "cfg.json").read_text())
    del config["metadata"]
    del config["architecture"]
    (path / "cfg.json").write_text(json.dumps(config))
    sae = SparseAutoencoder.load(path)
    codes = ((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    check(sae, X, codes, (codes * w["scaling_factor"]) @ w["W_dec"] + w["b_dec"])
    assert sae.origin is not None and sae.origin.model == "EleutherAI/pythia-70m-deduped"


def test_old_topk(tmp_path: Path) -> None:
    w = weights("b_enc")
    keys = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    sae = loaded(tmp_path / "s", "standard", w, **keys)
    codes = topk((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    check(sae, X, codes, codes @ w["W_dec"] + w["b_dec"])


def test_the_factor_of_a_training_checkpoint_is_folded(tmp_path: Path) -> None:
    w = weights("b_enc")
    path = folder(tmp_path / "s", "standard", w, normalize_activations="expected_average_only_in")
    unfolded = ((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    check(SparseAutoencoder.load(path), X, unfolded, unfolded @ w["W_dec"] + w["b_dec"])
    (path / "activation_scaler.json").write_text('{"scaling_factor": 0.37}')
    codes = ((0.37 * X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    check(SparseAutoencoder.load(path), X, codes, (codes @ w["W_dec"] + w["b_dec"]) / 0.37)


CASES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "standard": (("b_enc",), {"apply_b_dec_to_input": False}),
    "topk": (("b_enc",), {"k": K}),
    "jumprelu": (("b_enc", "threshold"), {"normalize_activations": "layer_norm"}),
    "gated": (("b_gate", "b_mag", "r_mag"), {}),
    "skip_transcoder": (("b_enc", "W_skip"), {"d_out": D}),
    "jumprelu_transcoder": (("b_enc", "threshold"), {"d_out": D}),
}


@pytest.mark.parametrize("architecture", CASES)
def test_there_and_back(tmp_path: Path, architecture: str) -> None:
    """Through this package's own folder and out to SAELens again."""
    further, keys = CASES[architecture]
    sae = loaded(tmp_path / "s", architecture, weights(*further), **keys)
    sae.save(tmp_path / "own")
    export(SparseAutoencoder.load(tmp_path / "own"), tmp_path / "out", "saelens")
    back = SparseAutoencoder.load(tmp_path / "out")
    assert back.config == sae.config
    assert to_saelens(sae)[0]["architecture"] == architecture
    torch.testing.assert_close(back.encode(X).dense(F), sae.encode(X).dense(F))
    torch.testing.assert_close(back(X), sae(X))


REFUSED = [
    ({"architecture": "temporal"}, "architecture is 'temporal', which is not read"),
    ({"d_in": 12}, r"W_enc has shape \[13, 57\], but \[12, 57\] is needed"),
    ({"d_in": "wide"}, "size of 'wide'"),
    ({"architecture": "jumprelu"}, "tensor threshold is missing"),
    ({"architecture": "topk"}, "k is None"),
    ({"architecture": "topk", "k": 58}, "k is 58, but there are only 57 latents"),
    ({"normalize_activations": "covariance_whitening"}, "normalize_activations is 'cov"),
    ({"activation_fn": "tanh-relu"}, "activation_fn is 'tanh-relu'"),
    ({"apply_b_dec_to_input": "no"}, "apply_b_dec_to_input is 'no', where true or false is"),
    ({"rescale_acts_by_decoder_norm": 1}, "rescale_acts_by_decoder_norm is 1, where true or"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_what_is_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    path = folder(tmp_path / "s", "standard", weights("b_enc"), **keys)
    with pytest.raises(InputError, match=message):
        SparseAutoencoder.load(path)


def test_factors_that_may_not_count_are_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "s", "standard", weights("b_enc", "scaling_factor"))
    with pytest.raises(InputError, match="finetuning_scaling_factor is not true"):
        SparseAutoencoder.load(path)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "s", "standard", weights("b_enc"))
    file = path / "sae_weights.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[:-100], b"", b"\x80\x04pickle"):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="cannot be read"):
            SparseAutoencoder.load(path)
    w = weights("b_enc")
    w["W_enc"][3, 4] = torch.nan
    save_tensors(file, w)
    with pytest.raises(InputError, match="W_enc holds NaN or infinity"):
        SparseAutoencoder.load(path)
