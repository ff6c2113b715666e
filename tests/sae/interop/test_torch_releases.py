"""Torch files of Qwen-Scope, Goodfire and qresearch: by their formulas, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae import InputError, SparseAutoencoder, TopKConfig
from sparsteer.sae.interop.layouts import find

from .foreign_files import K, X, check, goodfire, qresearch, qwen_scope, topk, weights


@pytest.mark.parametrize("few", [False, True])
def test_qwen_scope(tmp_path: Path, few: bool) -> None:
    """topk(x @ W_enc^T + b_enc), k from the repository's name; with few positive ones in a row."""
    w = weights("b_enc")
    w["b_enc"] -= 3 * few
    sae = SparseAutoencoder.load(qwen_scope(tmp_path, w))
    pre = X @ w["W_enc"] + w["b_enc"]
    assert ((pre > 0).sum(1) < K).any() == few
    codes = topk(pre)
    check(sae, X, codes, codes @ w["W_dec"] + w["b_dec"])
    assert isinstance(sae.config, TopKConfig) and sae.config.k == K
    assert sae.origin is not None
    assert sae.origin.model == "Qwen/Qwen3-8B-Base"
    assert sae.origin.site == "blocks.12.hook_resid_post"


def test_k_of_qwen_scope_in_the_hubs_cache(tmp_path: Path) -> None:
    folder = "models--Qwen--SAE-Res-Qwen3.5-35B-A3B-Base-W32K-L0_50/snapshots/0f"
    sae = SparseAutoencoder.load(qwen_scope(tmp_path, weights("b_enc"), folder))
    assert isinstance(sae.config, TopKConfig) and sae.config.k == 50
    assert sae.origin is not None and sae.origin.model == "Qwen/Qwen3.5-35B-A3B-Base"


def test_qwen_scope_without_k_is_refused(tmp_path: Path) -> None:
    file = qwen_scope(tmp_path, weights("b_enc"), "downloads")
    with pytest.raises(InputError, match="into a folder with L0_50 in its name, for k = 50"):
        SparseAutoencoder.load(file)
    (tmp_path / "L0_7").mkdir()
    shutil.copy(file, tmp_path / "L0_7")
    sae = SparseAutoencoder.load(tmp_path / "L0_7")
    assert isinstance(sae.config, TopKConfig) and sae.config.k == 7
    assert sae.origin is None


def test_a_folder_of_several_layers_is_refused(tmp_path: Path) -> None:
    file = qwen_scope(tmp_path, weights("b_enc"))
    shutil.copy(file, file.with_name("layer3.sae.pt"))
    with pytest.raises(InputError, match=r"holds 2 autoencoders, layer3\.sae\.pt to layer12"):
        SparseAutoencoder.load(file.parent)


def test_k_above_the_latents_is_refused(tmp_path: Path) -> None:
    file = qwen_scope(tmp_path, weights("b_enc"), "L0_100")
    with pytest.raises(InputError, match="k is 100, but there are only 57 latents"):
        SparseAutoencoder.load(file)


@pytest.mark.parametrize(
    ("write", "model", "site"),
    [
        (goodfire, "meta-llama/Llama-3.1-8B-Instruct", "blocks.19.hook_resid_post"),
        (qresearch, "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "blocks.19.hook_resid_pre"),
    ],
)
def test_two_linears(tmp_path: Path, write: Any, model: str, site: str) -> None:
    w = weights("b_enc")
    codes = (X @ w["W_enc"] + w["b_enc"]).relu()
    file = write(tmp_path, w)
    for place in (file, tmp_path):
        sae = SparseAutoencoder.load(place)
        check(sae, X, codes, codes @ w["W_dec"] + w["b_dec"])
        assert sae.origin is not None
        assert (sae.origin.model, sae.origin.site) == (model, site)
    other = SparseAutoencoder.load(file.rename(tmp_path / "other.pt"))
    assert other.origin is None


class Harmful:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("write", [qwen_scope, goodfire, qresearch])
def test_nothing_in_a_pickle_is_run(tmp_path: Path, write: Any, old_format: bool) -> None:
    file = write(tmp_path, weights("b_enc"))
    layout, marker = find(file).layout, tmp_path / "marker"
    state: dict[str, Any] = torch.load(file, weights_only=True)
    state["W_dec"] = Harmful(marker)
    torch.save(state, file, _use_new_zipfile_serialization=not old_format)
    assert find(file).layout == layout
    with pytest.raises(InputError, match="only unpickling could read"):
        SparseAutoencoder.load(file)
    assert not marker.exists()


@pytest.mark.parametrize("write", [qwen_scope, goodfire, qresearch])
def test_damaged_files_are_refused(tmp_path: Path, write: Any) -> None:
    file = write(tmp_path, weights("b_enc"))
    layout, whole = find(file).layout, file.read_bytes()
    for damaged in (whole[:-1000], b"", b"text"):
        file.write_bytes(damaged)
        assert find(file).layout == layout
        with pytest.raises(InputError, match=r"cannot be read|only unpickling"):
            SparseAutoencoder.load(file)
    torch.save(torch.zeros(3), file)
    with pytest.raises(InputError, match="holds a Tensor, not tensors by name"):
        SparseAutoencoder.load(file, layout=layout)
