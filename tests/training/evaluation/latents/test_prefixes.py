"""Nested dictionaries at every prefix."""

import copy
from pathlib import Path

import pytest
import torch

from sparsteer.sae import InputError, SparseAutoencoder
from sparsteer.sae.config import (
    BatchTopKConfig,
    JumpReLUConfig,
    SAEConfig,
    TopAFAConfig,
    TopKConfig,
)
from sparsteer.sae.losses import nested_loss
from sparsteer.sae.metrics import measure_rows
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.evaluation.config import EvalSettings
from sparsteer.training.evaluation.latents.prefix_view import PrefixView
from sparsteer.training.evaluation.latents.prefixes import measure_prefixes, widths_of
from sparsteer.training.evaluation.subjects import Subject

from ....tiny_runs import SITE

CONFIGS = {
    "topk": TopKConfig(12, 40, 5, prefixes=(8, 20)),
    "batch_topk": BatchTopKConfig(12, 40, 5, prefixes=(8, 20)),
    "jumprelu": JumpReLUConfig(12, 40, prefixes=(8, 20)),
    "top_afa": TopAFAConfig(12, 40, learned_scale=True, prefixes=(8, 20)),
}


def trained(config: SAEConfig) -> SparseAutoencoder:
    """Random weights, biases, scale, center and thresholds."""
    sae = SparseAutoencoder(config, seed=3)
    with torch.no_grad():
        for tensor in (sae.b_enc, sae.b_dec, sae.input_center):
            tensor.normal_(0, 0.1)
        sae.input_scale.fill_(1.7)
        for name in sae.activation.state():
            sae.state_dict()[name].uniform_(0.2, 0.9)
    return sae


@pytest.mark.slow_except("topk", "jumprelu")
@pytest.mark.parametrize("name", CONFIGS)
def test_a_prefix_decodes_what_the_whole_encodes_of_it(name: str) -> None:
    sae = trained(CONFIGS[name])
    x_BD = torch.randn(30, 12)
    for width in (1, 8, 20, 33, 40):
        view = PrefixView(sae, width)
        dense_BF = sae.encode(x_BD).dense(40).detach()[:, :width]
        codes = view.encode(x_BD)
        assert torch.equal(codes.dense(width), dense_BF)
        scaled_BD = dense_BF @ sae.W_dec[:width] + sae.b_dec
        expected = scaled_BD / sae.input_scale + sae.input_center / sae.input_scale
        assert torch.allclose(view(x_BD), expected, atol=1e-5)
        assert view.W_dec.data_ptr() == sae.W_dec.data_ptr()  # no copy


def test_the_losses_of_the_prefixes_are_those_that_training_takes() -> None:
    sae = trained(CONFIGS["topk"])
    x_BD = torch.randn(50, 12)
    scaled_BD = sae.scaled(x_BD)
    with torch.no_grad():
        expected = nested_loss(sae, sae.encode_scaled(scaled_BD), scaled_BD).loss
        losses: list[torch.Tensor] = []
        for width in (8, 20, 40):
            view = PrefixView(sae, width)
            x_hat_BD = view.decode_scaled(view.encode_scaled(scaled_BD))
            losses.append((x_hat_BD - scaled_BD).square().mean())
    assert float(torch.stack(losses).mean()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", ["batch_topk", "jumprelu"])
def test_with_thresholds_a_prefix_encodes_by_itself(name: str) -> None:
    view = PrefixView(trained(CONFIGS[name]), 20)
    x_BD = torch.randn(30, 12)
    own = view.activation.encode(view, view.scaled(x_BD))
    assert torch.allclose(own.dense(20), view.encode(x_BD).dense(20), atol=1e-6)


def test_widths_are_those_trained_and_between() -> None:
    assert widths_of((8, 32), 128) == [4, 8, 16, 32, 64, 128]
    assert widths_of((1,), 3) == [1, 2, 3]


def test_each_prefix_is_measured_as_it_is_alone(planted_cache: Path) -> None:
    sae = trained(CONFIGS["topk"])
    cache = ActivationCache(planted_cache)
    settings = EvalSettings(cache=str(planted_cache), contexts=0, rows=300, device="cpu")
    nested = Subject("nested", sae, SITE, None)
    other = Subject("other", trained(TopKConfig(12, 8, 2)), SITE, None)
    found = measure_prefixes(nested, [other], cache, settings)
    rows_ND = cache.held_out(limit=300)
    assert [one["latents"] for one in found["prefixes"]] == [4, 8, 13, 20, 28, 40]
    assert [one["trained"] for one in found["prefixes"]] == [False, True, False, True, False, True]
    for one in found["prefixes"]:
        alone = measure_rows(PrefixView(sae, one["latents"]), rows_ND).result()
        assert {name: one[name] for name in alone} == pytest.approx(alone)
    whole = measure_rows(sae, rows_ND).result()
    last = found["prefixes"][-1]
    assert {name: last[name] for name in whole} == pytest.approx(whole)
    l0 = [one["l0"] for one in found["prefixes"]]
    assert l0 == sorted(l0) and l0[0] < 5
    (beside,) = found["others"]
    alone = measure_rows(other.sae, rows_ND).result()
    assert beside["sae"] == "other" and beside["fvu"] == pytest.approx(alone["fvu"])


def test_what_is_not_nested_or_of_another_site_is_refused(planted_cache: Path) -> None:
    cache = ActivationCache(planted_cache)
    settings = EvalSettings(cache=str(planted_cache), contexts=0, device="cpu")
    plain = Subject("plain", trained(TopKConfig(12, 8, 2)), SITE, None)
    with pytest.raises(InputError, match="plain was trained without prefixes"):
        measure_prefixes(plain, [], cache, settings)
    nested = Subject("nested", trained(CONFIGS["topk"]), SITE, None)
    away = Subject("away", plain.sae, "blocks.0.hook_resid_post", None)
    with pytest.raises(InputError, match="away stands at"):
        measure_prefixes(nested, [away], cache, settings)
    with pytest.raises(InputError, match="a prefix of 41"):
        PrefixView(nested.sae, 41)


def test_a_view_that_is_moved_moves_the_whole() -> None:
    sae = trained(CONFIGS["topk"])
    view = copy.deepcopy(PrefixView(sae, 20)).to(torch.float64)
    assert view(torch.randn(3, 12)).dtype == view.whole.W_enc.dtype == torch.float64
    assert sae.W_enc.dtype == torch.float32
