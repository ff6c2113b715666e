"""Tokens by a Jacobian lens, from a file as TransformerLens saves it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae import InputError, LanguageModel, SparseAutoencoder
from sparsteer.steering.features import BuildConfig, FeatureIndex, build_index
from sparsteer.steering.features.lens import block_of, jacobian

from ...tiny_runs import SITE
from .conftest import N_LATENTS, Setup, copied


def saved_lens(path: Path, width: int, layers: tuple[int, ...]) -> dict[int, torch.Tensor]:
    from transformer_lens.tools.analysis import JacobianLens

    generator = torch.Generator().manual_seed(4)
    matrices = {layer: torch.randn(width, width, generator=generator) for layer in layers}
    JacobianLens(matrices, n_prompts=3, d_model=width).save(str(path))
    return {layer: matrix.half().float() for layer, matrix in matrices.items()}


def test_tokens_by_the_lens(setup: Setup, tiny_model: LanguageModel, tmp_path: Path) -> None:
    setup = copied(setup, tmp_path / "run")
    width = tiny_model.d_model
    matrices = saved_lens(tmp_path / "lens.pt", width, (0, 1))
    values = build_index(setup.config(lens=str(tmp_path / "lens.pt")), model=tiny_model)
    assert values["lens"] and "lens" not in values["missing"]
    index = FeatureIndex.of_run(setup.run)
    model: Any = tiny_model.bridge.original_model
    W_dec = SparseAutoencoder.load(setup.run / "sae").W_dec.detach()
    through = torch.nn.functional.normalize(W_dec @ matrices[1].T, dim=-1)
    with torch.no_grad():
        effect = model.lm_head(model.model.norm(through * width**0.5))
    effect -= effect.mean(-1, keepdim=True)
    differ = 0
    for number in range(N_LATENTS):
        feature = index.feature(number)
        assert feature.lens is not None and feature.positive_logits is not None
        logits, tokens = effect[number].topk(3)
        assert [token.logit for token in feature.lens] == pytest.approx(logits.numpy(), rel=1e-3)
        assert [token.token for token in feature.lens] == tokens.numpy().tolist()
        differ += [t.token for t in feature.lens] != [t.token for t in feature.positive_logits]
    assert differ > N_LATENTS / 2


def test_without_a_lens_the_manifest_says_why(setup: Setup) -> None:
    index = FeatureIndex.of_run(setup.run)
    assert index.feature(0).lens is None
    assert index.manifest["missing"]["lens"] == "no Jacobian lens was given (--lens FILE)"


@pytest.mark.parametrize(
    ("site", "block"),
    [
        ("blocks.1.hook_resid_post", 1),
        ("blocks.1.hook_resid_pre", 0),
        ("blocks.12.hook_mlp_out", 12),
        ("blocks.0.hook_resid_pre", -1),
        ("blocks.1.hook_resid_mid", None),
        ("blocks.1.hook_attn_out", None),
    ],
)
def test_which_block_a_direction_is_added_to(site: str, block: int | None) -> None:
    assert block_of(site) == block


@pytest.mark.parametrize(
    ("site", "why"),
    [
        ("blocks.2.hook_resid_post", "the site is the last block's output"),
        ("blocks.1.hook_resid_mid", "blocks.1.hook_resid_mid is none"),
        ("blocks.0.hook_resid_pre", "no matrix for blocks.0.hook_resid_pre"),
        ("blocks.1.hook_resid_post", "no matrix for blocks.1.hook_resid_post"),
    ],
)
def test_sites_that_have_no_lens(tmp_path: Path, site: str, why: str) -> None:
    saved_lens(tmp_path / "lens.pt", 8, (0,))
    matrix, said = jacobian(str(tmp_path / "lens.pt"), site, d_model=8, n_layers=3)
    assert matrix is None and why in said


def test_files_that_are_no_lens_of_the_model(tmp_path: Path) -> None:
    file = tmp_path / "lens.pt"
    saved_lens(file, 8, (0, 5))
    for d_model, n_layers, why in ((9, 9, "not 9 by 9"), (8, 5, "it has a layer 5")):
        with pytest.raises(InputError, match=why):
            jacobian(str(file), SITE, d_model=d_model, n_layers=n_layers)
    torch.save({"weight": torch.zeros(2)}, file)
    with pytest.raises(InputError, match="is no Jacobian lens"):
        jacobian(str(file), SITE, d_model=8, n_layers=3)
    torch.save({"J": {1: torch.full((8, 8), torch.nan)}}, file)
    with pytest.raises(InputError, match="NaN or infinity at layer 1"):
        jacobian(str(file), SITE, d_model=8, n_layers=3)
    file.write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(InputError, match="cannot be read"):
        jacobian(str(file), SITE, d_model=8, n_layers=3)


def test_a_lens_without_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="lens is given, but logits is 0"):
        BuildConfig(run="run", cache="cache", lens="lens.pt", logits=0)
