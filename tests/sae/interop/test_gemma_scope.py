"""Files of Gemma Scope 1 and 2: by the formula of their tutorials, and what is refused.

relu(x @ W_enc + b_enc) where it exceeds the threshold, then codes @ W_dec + b_dec; an affine skip
connection adds x @ affine_skip_connection.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae import InputError, SparseAutoencoder
from sparsteer.sae.common.tensor_files import save_tensors
from sparsteer.sae.interop.gemma_scope import stated
from sparsteer.sae.interop.layouts import find

from .foreign_files import F, Tensors, X, check, gemma_scope, gemma_scope_2, weights

OURS = ("b_enc", "threshold")


def codes_of(w: Tensors) -> Tensor:
    pre = X @ w["W_enc"] + w["b_enc"]
    return pre.relu() * (pre > w["threshold"])


def test_params_npz(tmp_path: Path) -> None:
    w = weights(*OURS)
    folder = gemma_scope(tmp_path, w)
    codes = codes_of(w)
    for place in (folder, folder / "params.npz"):
        sae = SparseAutoencoder.load(place)
        check(sae, X, codes, codes @ w["W_dec"] + w["b_dec"])
        assert sae.origin is not None and sae.origin.model == "google/gemma-2-2b"
        assert (sae.origin.site, sae.origin.target_site) == ("blocks.12.hook_resid_post", None)


@pytest.mark.parametrize(
    ("release", "model", "site", "target_site"),
    [
        ("gemma-scope-9b-it-res", "gemma-2-9b-it", "hook_resid_post", None),
        ("gemma-scope-9b-pt-att", "gemma-2-9b", "attn.hook_z", None),
        ("gemma-scope-2b-pt-mlp", "gemma-2-2b", "hook_mlp_out", None),
        (
            *("models--google--gemma-scope-2b-pt-transcoders", "gemma-2-2b"),
            *("ln2.hook_normalized", "hook_mlp_out"),
        ),
    ],
)
def test_the_repositorys_name_says_the_place(
    tmp_path: Path, release: str, model: str, site: str, target_site: str | None
) -> None:
    sae = SparseAutoencoder.load(gemma_scope(tmp_path, weights(*OURS), release))
    origin = sae.origin
    assert origin is not None and origin.model == f"google/{model}"
    assert origin.site == f"blocks.12.{site}"
    assert origin.target_site == (target_site and f"blocks.12.{target_site}")
    assert sae.config.transcoder == (target_site is not None)


def test_a_file_elsewhere_is_an_autoencoder_of_no_known_place(tmp_path: Path) -> None:
    sae = SparseAutoencoder.load(gemma_scope(tmp_path, weights(*OURS), "downloads"))
    assert sae.origin is None and not sae.config.transcoder


def test_params_safetensors(tmp_path: Path) -> None:
    w = weights(*OURS)
    module = "model.layers.13.output"
    hooks = {"hf_hook_point_in": module, "hf_hook_point_out": module, "type": "sae"}
    folder = gemma_scope_2(tmp_path, w, **hooks)
    assert stated(folder) == {"l0": 20}
    sae = SparseAutoencoder.load(folder)
    codes = codes_of(w)
    check(sae, X, codes, codes @ w["W_dec"] + w["b_dec"])
    assert sae.origin is not None and not sae.config.transcoder
    assert (sae.origin.model, sae.origin.site) == (
        *("google/gemma-3-1b-pt", "blocks.13.hook_resid_post"),
    )


@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("skip", [True, False])
def test_transcoders(tmp_path: Path, skip: bool, described: bool) -> None:
    """With config.json and, as some repositories have none, by the folders' names."""
    w = weights(*OURS, *["W_skip"] * skip)
    hooks = {
        "hf_hook_point_in": "model.layers.13.pre_feedforward_layernorm.output",
        "hf_hook_point_out": "model.layers.13.post_feedforward_layernorm.output",
        "affine_connection": skip,
    }
    sae = SparseAutoencoder.load(
        gemma_scope_2(tmp_path, w, "transcoder_all", **(hooks if described else {}))
    )
    codes = codes_of(w)
    skipped = X @ w["W_skip"].T if skip else 0
    check(sae, X, codes, codes @ w["W_dec"] + w["b_dec"] + skipped)
    assert sae.config.transcoder and sae.origin is not None
    assert sae.origin.model == "google/gemma-3-1b-pt"
    assert sae.origin.site == "blocks.13.mlp.hook_in"
    assert sae.origin.target_site == "blocks.13.hook_mlp_out"


def test_models_and_places_by_other_names(tmp_path: Path) -> None:
    """Some files call the model gemma-v3; the small base model has no -pt on the hub."""
    hooks = {"hf_hook_point_in": "model.layers.3.unknown", "model_name": "gemma-v3-270m-pt"}
    origin = SparseAutoencoder.load(gemma_scope_2(tmp_path, weights(*OURS), **hooks)).origin
    assert origin is not None
    assert (origin.model, origin.site) == ("google/gemma-3-270m", "model.layers.3.unknown")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"architecture": "topk"}, "architecture is 'topk', but only jump_relu"),
    ({"width": F + 1}, r"w_enc has shape \[13, 57\], but \[13, 58\] is needed"),
    ({"affine_connection": True}, "tensor affine_skip_connection is missing"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_what_is_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    folder = gemma_scope_2(tmp_path, weights(*OURS), **keys)
    with pytest.raises(InputError, match=message):
        SparseAutoencoder.load(folder)


def test_a_cross_layer_transcoder_is_refused(tmp_path: Path) -> None:
    w = weights(*OURS)
    w["W_dec"] = w["W_dec"][:, None, :].expand(-1, 4, -1)
    with pytest.raises(InputError, match="w_dec has 3 dimensions, as cross-layer transcoders"):
        SparseAutoencoder.load(gemma_scope_2(tmp_path, w, "clt"))


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", None])
def test_damaged_files_are_still_recognized_and_refused(
    tmp_path: Path, damage: bytes | None
) -> None:
    w = weights(*OURS)
    for file in (
        gemma_scope(tmp_path, w) / "params.npz",
        gemma_scope_2(tmp_path, w) / "params.safetensors",
    ):
        file.write_bytes(file.read_bytes()[:-300] if damage is None else damage)
        assert find(file.parent).layout == "gemma_scope"
        with pytest.raises(InputError, match="cannot be read"):
            SparseAutoencoder.load(file.parent)


def test_other_tensors_are_refused(tmp_path: Path) -> None:
    w = weights(*OURS)
    folder = gemma_scope_2(tmp_path, w)
    stored = {"w_enc": w["W_enc"], "w_dec": w["W_dec"], "b_enc": w["b_enc"], "b_dec": w["b_dec"]}
    save_tensors(folder / "params.safetensors", stored)
    with pytest.raises(InputError, match="tensor threshold is missing"):
        SparseAutoencoder.load(folder, layout="gemma_scope")
    (folder / "config.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match="holds a JSON list"):
        SparseAutoencoder.load(folder, layout="gemma_scope")
    w["threshold"][3] = torch.nan
    with pytest.raises(InputError, match="threshold holds NaN or infinity"):
        SparseAutoencoder.load(gemma_scope(tmp_path, w))
