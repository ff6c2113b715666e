"""Transcoders of circuit-tracer: by its formula, there and back, and what is refused.

relu(x @ W_enc^T + b_enc), or what exceeds a threshold, then codes @ W_dec + b_dec, and with a skip
connection x @ W_skip^T more.
"""

import shutil
from pathlib import Path

import pytest
import torch

from sparsteer.sae import (
    BatchTopKConfig,
    InputError,
    JumpReLUConfig,
    Origin,
    SparseAutoencoder,
    TopKConfig,
)
from sparsteer.sae.common.tensor_files import load_tensors, save_tensors
from sparsteer.sae.config import SAEConfig
from sparsteer.sae.interop.export import export
from sparsteer.sae.interop.layouts import find

from ..random_sae import random_sae
from .foreign_files import D, F, X, check, circuit_tracer, weights

ORIGIN = Origin(
    model="some/model", site="blocks.7.hook_resid_mid", target_site="blocks.7.hook_mlp_out"
)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("jumps", [False, True])
def test_transcoders(tmp_path: Path, jumps: bool, skip: bool) -> None:
    w = weights("b_enc", *["threshold"] * jumps, *["W_skip"] * skip)
    if jumps:
        w["threshold"] = w["threshold"].abs()
    file = circuit_tracer(tmp_path / "set", w)
    pre = X @ w["W_enc"] + w["b_enc"]
    codes = pre.relu() * (pre > w["threshold"]) if jumps else pre.relu()
    skipped = X @ w["W_skip"].T if skip else 0
    for place in (file, file.parent):
        sae = SparseAutoencoder.load(place)
        check(sae, X, codes, codes @ w["W_dec"] + w["b_dec"] + skipped)
        assert sae.origin is not None and sae.origin.model == "Qwen/Qwen3-4B"
        assert sae.origin.site == "blocks.3.mlp.hook_in"
        assert sae.origin.target_site == "blocks.3.hook_mlp_out"
    export(sae, tmp_path / "out", "circuit-tracer")
    assert load_tensors(tmp_path / "out" / file.name, "").keys() == load_tensors(file, "").keys()
    back = SparseAutoencoder.load(tmp_path / "out")
    assert (back.config, back.origin) == (sae.config, sae.origin)
    assert torch.equal(back(X), sae(X))
    (file.parent / "config.yaml").unlink()
    assert SparseAutoencoder.load(file).origin is None


def transcoder(config: SAEConfig, origin: Origin | None = ORIGIN) -> SparseAutoencoder:
    sae = random_sae(config, 3.7)
    sae.origin = origin
    sae.output_center.normal_()
    sae.output_scale.fill_(0.3)
    return sae


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "config", [JumpReLUConfig(D, F, transcoder=True), BatchTopKConfig(D, F, 5, transcoder=True)]
)
def test_trained_here(tmp_path: Path, config: SAEConfig, dtype: str) -> None:
    """Scales and centers of both sides are folded, and latents are in the output's raw units."""
    sae = transcoder(config)
    export(sae, tmp_path / "out", "circuit-tracer", dtype=dtype)  # pyright: ignore[reportArgumentType]
    w = {
        name: tensor.float()
        for name, tensor in load_tensors(tmp_path / "out" / "layer_7.safetensors", "").items()
    }
    pre = X @ w["W_enc"].T + w["b_enc"]
    codes = pre * (pre > w["activation_function.threshold"])
    check(SparseAutoencoder.load(tmp_path / "out"), X, codes, codes @ w["W_dec"] + w["b_dec"])
    if dtype == "float32":
        torch.testing.assert_close(codes, sae.encode(X).dense(F) / 0.3, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(codes @ w["W_dec"] + w["b_dec"], sae(X), rtol=1e-4, atol=1e-4)
    text = (tmp_path / "out" / "config.yaml").read_text()
    assert 'model_name: "some/model"' in text and 'feature_input_hook: "hook_resid_mid"' in text


def test_what_is_not_written(tmp_path: Path) -> None:
    jumps = JumpReLUConfig(D, F, transcoder=True)
    elsewhere = Origin(model="m", site="blocks.1.hook_mlp_in", target_site="blocks.2.hook_mlp_out")
    refused = [
        (transcoder(jumps, None), "does not say where it reads"),
        (transcoder(jumps, elsewhere), "needs both in the same block"),
        (transcoder(TopKConfig(D, F, 5, transcoder=True)), "activation is topk, but circuit"),
        (random_sae(TopKConfig(D, F, 5)), "but this is an autoencoder"),
        (
            transcoder(JumpReLUConfig(D, F, transcoder=True, normalize_activations="layer_norm")),
            "normalize_activations is layer_norm",
        ),
    ]
    for sae, message in refused:
        with pytest.raises(InputError, match=message):
            export(sae, tmp_path / "out", "circuit-tracer")
    assert not (tmp_path / "out").exists()


def test_a_set_of_several_layers_is_refused(tmp_path: Path) -> None:
    file = circuit_tracer(tmp_path, weights("b_enc"))
    shutil.copy(file, tmp_path / "layer_10.safetensors")
    assert find(tmp_path).layout == "circuit-tracer"
    with pytest.raises(InputError, match=r"2 autoencoders, layer_3\.safetensors to layer_10"):
        SparseAutoencoder.load(tmp_path)
    assert SparseAutoencoder.load(tmp_path / "layer_10.safetensors").origin is not None


def test_a_cross_layer_transcoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model_kind: cross_layer_transcoder\n")
    save_tensors(tmp_path / "W_enc_0.safetensors", {"W_enc_0": torch.zeros(F, D)})
    with pytest.raises(InputError, match="of the kind cross_layer_transcoder, but only"):
        SparseAutoencoder.load(tmp_path)


def test_a_list_of_files_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "model_kind: transcoder_set\ntranscoders:\n- hf://google/gemma/layer_0/params.npz\n"
    )
    with pytest.raises(InputError, match=r"lie elsewhere: .*hf://google/gemma/layer_0"):
        SparseAutoencoder.load(tmp_path)


def test_negative_thresholds_are_refused(tmp_path: Path) -> None:
    """circuit-tracer would give negative latents between such a threshold and 0."""
    with pytest.raises(InputError, match="thresholds are below 0"):
        SparseAutoencoder.load(circuit_tracer(tmp_path, weights("b_enc", "threshold")))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    w = weights("b_enc")
    file = circuit_tracer(tmp_path / "a", w)
    file.write_bytes(file.read_bytes()[:-100])
    assert find(file).layout == "circuit-tracer"
    with pytest.raises(InputError, match="cannot be read"):
        SparseAutoencoder.load(file)
    file = circuit_tracer(tmp_path / "b", {**w, "W_enc": w["W_dec"]})
    with pytest.raises(InputError, match=r"W_dec has shape \[57, 13\], but \[13, 57\]"):
        SparseAutoencoder.load(file)
    file = circuit_tracer(tmp_path / "c", w)
    (tmp_path / "c" / "config.yaml").write_text("model_kind: [")
    with pytest.raises(InputError, match="is not valid YAML"):
        SparseAutoencoder.load(file)
    save_tensors(tmp_path / "c" / "layer_3.safetensors", {"W_enc": w["W_dec"]})
    (tmp_path / "c" / "config.yaml").unlink()
    with pytest.raises(InputError, match="tensor W_dec is missing"):
        SparseAutoencoder.load(file, layout="circuit-tracer")
