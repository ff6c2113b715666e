"""Exported autoencoders: the same latents, decoders and reconstructions, and what is refused."""

from pathlib import Path

import pytest
import torch

from sparsteer.sae import (
    BatchTopKConfig,
    InputError,
    JumpReLUConfig,
    Origin,
    SparseAutoencoder,
    TopAFAConfig,
    TopKConfig,
)
from sparsteer.sae.common.files import read_json
from sparsteer.sae.common.tensor_files import load_tensors
from sparsteer.sae.config import SAEConfig
from sparsteer.sae.interop.export import export
from sparsteer.sae.interop.saelens_keys import to_saelens

from ..random_sae import ORIGIN, random_sae

D, F, SCALE = 13, 57, 3.7
CONFIGS = [
    TopKConfig(D, F, 5),
    TopKConfig(D, F, 5, prefixes=(8, 20)),
    BatchTopKConfig(D, F, 5),
    JumpReLUConfig(D, F),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_saelens_formula_gives_the_same(config: SAEConfig, tmp_path: Path) -> None:
    """SAELens: pre = (x - b_dec) W_enc + b_enc, the activation, then acts W_dec + b_dec."""
    sae = random_sae(config, SCALE)
    export(sae, tmp_path / "out", "saelens")
    w = load_tensors(tmp_path / "out" / "sae_weights.safetensors", "")
    cfg = read_json(tmp_path / "out" / "cfg.json", "configuration")
    assert w["W_enc"].shape == (D, F) and w["W_dec"].shape == (F, D)
    assert (cfg["d_in"], cfg["d_sae"], cfg["metadata"]["hook_name"]) == (D, F, ORIGIN.site)
    torch.testing.assert_close(w["W_dec"].square().sum(1), torch.ones(F))

    x = torch.randn(31, D)
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    if cfg["architecture"] == "topk":
        top = pre.topk(cfg["k"])
        acts = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
    else:
        assert cfg["architecture"] == "jumprelu"
        acts = pre * (pre > w["threshold"])
    assert 0 < (acts > 0).float().mean() < 0.9
    torch.testing.assert_close(acts * SCALE, sae.encode(x).dense(F))
    torch.testing.assert_close(acts @ w["W_dec"] + w["b_dec"], sae(x))


def test_batch_topk_encodes_alike_as_jumprelu(tmp_path: Path) -> None:
    sae = random_sae(BatchTopKConfig(D, F, 5, prefixes=(8, 20)), SCALE)
    export(sae, tmp_path / "out", "sparsteer")
    loaded = SparseAutoencoder.load(tmp_path / "out")
    assert isinstance(loaded.config, JumpReLUConfig) and loaded.config.prefixes == (8, 20)
    assert loaded.origin == sae.origin
    x = torch.randn(300, D)
    assert torch.equal(loaded.encode(x).dense(F), sae.encode(x).dense(F))


def test_a_batch_topk_transcoder_predicts_alike_as_jumprelu(tmp_path: Path) -> None:
    sae = random_sae(BatchTopKConfig(D, F, 5, transcoder=True), SCALE)
    sae.output_center.normal_()
    sae.output_scale.fill_(0.3)
    export(sae, tmp_path / "out", "sparsteer")
    loaded = SparseAutoencoder.load(tmp_path / "out")
    assert isinstance(loaded.config, JumpReLUConfig) and loaded.config.transcoder
    x = torch.randn(300, D)
    torch.testing.assert_close(loaded(x), sae(x))


@pytest.mark.parametrize("config", [TopAFAConfig(D, F), TopKConfig(D, F, 5)], ids=str)
def test_another_activation_stays_itself(config: SAEConfig, tmp_path: Path) -> None:
    sae = random_sae(config, SCALE)
    export(sae, tmp_path, "sparsteer")  # an empty folder is taken
    loaded = SparseAutoencoder.load(tmp_path)
    assert loaded.config == config
    assert torch.equal(loaded.W_enc, sae.W_enc)


def test_what_is_refused(tmp_path: Path) -> None:
    untrained = SparseAutoencoder(BatchTopKConfig(D, F, 5), seed=0)
    with pytest.raises(InputError, match="no threshold"):
        export(untrained, tmp_path / "out", "saelens")
    with pytest.raises(InputError, match="no threshold"):
        export(untrained, tmp_path / "out", "sparsteer")
    with pytest.raises(InputError, match="top_afa, for which SAELens has no equal"):
        export(random_sae(TopAFAConfig(D, F), SCALE), tmp_path / "out", "saelens")
    with pytest.raises(InputError, match="but none with topk; choose"):
        export(random_sae(TopKConfig(D, F, 5, transcoder=True), SCALE), tmp_path / "out", "saelens")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", ["saelens", "sparsteer"])
def test_nothing_is_overwritten(layout: str, tmp_path: Path) -> None:
    sae = random_sae(BatchTopKConfig(D, F, 5), SCALE)
    sae.save(tmp_path / "sae")
    before = (tmp_path / "sae" / "config.json").read_bytes()
    with pytest.raises(InputError, match="give another --out, or --force"):
        export(sae, tmp_path / "sae", layout)
    assert (tmp_path / "sae" / "config.json").read_bytes() == before
    (tmp_path / "file").write_text("notes")
    with pytest.raises(InputError, match="choose another --out"):
        export(sae, tmp_path / "file", layout)


def test_saelens_gets_the_text_where_it_is_known() -> None:
    """By the names that SAELens 6 looks for in the metadata; an older file has none of them."""
    config = TopKConfig(4, 8, 2)
    known = Origin(
        model="m", site="s", weights_hash="h", dataset="d", context_length=77, prepends_bos=False
    )
    text = {"dataset_path": "d", "context_size": 77, "prepend_bos": False}
    older = Origin(model="m", site="s", weights_hash="h")
    for origin, expected in ((known, text), (older, {})):
        written = to_saelens(SparseAutoencoder(config, origin=origin))[0]["metadata"]
        assert {name: value for name, value in written.items() if name in text} == expected


@pytest.mark.parametrize(
    ("model", "written"),
    [("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"), ("org/model", "org/model")],
)
def test_saelens_gets_the_hubs_name_of_the_model(model: str, written: str) -> None:
    origin = Origin(model=model, site="s", weights_hash="h")
    config, _ = to_saelens(SparseAutoencoder(TopKConfig(4, 8, 2), origin=origin))
    assert config["metadata"]["model_name"] == written
