"""Activations with gradients: in the bridge and of transformers alone, padded and at every site."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.sae.language_model.sites import read_sites
from sparsteer.steering.fitting.trained_capture import (
    frozen,
    in_order,
    pooled,
    site_activations,
    text_batches,
    token_rows,
)

from ..plain_families import QUICK, SIX, hooks, twins

TEXTS = ["Where is it", "x y", "a b c a b"]

families = pytest.mark.parametrize("family", SIX)
quick = pytest.mark.slow_except("gpt_neox")


def both(family: str) -> list[LanguageModel]:
    pair = twins(family, torch.float64)
    return [pair.bridge, pair.plain]


def loss_of(model: LanguageModel, shift_D: Tensor) -> Tensor:
    """Something that depends on activations at every site, of which the first is shifted."""
    rows = token_rows(model, TEXTS, max_length=None, of="")
    batch = text_batches(model, rows[:1], 4)[0]
    sites = model.site_names
    found = site_activations(model, sites, batch, {sites[0]: lambda h_BLD: h_BLD + shift_D})
    wave_D = torch.linspace(0, 3, model.d_model, dtype=torch.float64).cos()
    parts = [
        (pooled(found[name], batch.content_BL, "mean") @ wave_D).square().sum() for name in sites
    ]
    return torch.stack(parts).sum()


@families
@quick
def test_gradients_are_those_of_finite_differences(family: str) -> None:
    for model in both(family):
        weights: Any = model.network.model.parameters()
        asked = [weight.requires_grad for weight in weights]
        n_hooks = hooks(model.network.model)
        shift_D = torch.zeros(model.d_model, dtype=torch.float64, requires_grad=True)
        with frozen(model):
            (gradient_D,) = torch.autograd.grad(loss_of(model, shift_D), shift_D)
        draw = torch.Generator().manual_seed(1)
        step_D = torch.randn(model.d_model, generator=draw, dtype=torch.float64)
        # RMSNorm computes in float32 in most models, so the step must be large.
        size, tolerance = (1e-5, 1e-6) if family in ("gpt2", "gpt_neox") else (1e-3, 5e-3)
        with torch.no_grad():
            up, down = (loss_of(model, sign * size * step_D) for sign in (1, -1))
        expected = (up - down) / (2 * size)
        torch.testing.assert_close(gradient_D @ step_D, expected, rtol=tolerance, atol=1e-4)
        weights = model.network.model.parameters()
        assert [weight.requires_grad for weight in weights] == asked
        assert hooks(model.network.model) == n_hooks


@pytest.mark.parametrize("family", QUICK)
@quick
def test_activations_are_those_that_sites_read(family: str) -> None:
    for model in both(family):
        rows = token_rows(model, TEXTS, max_length=None, of="")
        sites = in_order(model, model.site_names[::-1])
        assert sites == model.site_names
        for batch in text_batches(model, rows, 4):
            found = site_activations(model, sites, batch)
            expected = read_sites(
                model, [model.site(name) for name in sites], batch.tokens_BL, batch.mask_BL
            )
            for name in sites:
                assert torch.equal(
                    found[name].detach()[batch.mask_BL], expected[name][batch.mask_BL]
                )


def test_a_batch_holds_every_text_once_with_its_content(tiny_model: LanguageModel) -> None:
    rows = token_rows(tiny_model, [*TEXTS, "z", "", [70, 71, 72]], max_length=7, of="")
    assert [len(row) for row in rows] == [8, 4, 8, 4]  # of "z" and "" no token counts
    batches = text_batches(tiny_model, rows, 3)
    assert sorted(number for batch in batches for number in batch.texts) == [0, 1, 2, 3]
    for batch in batches:
        for row, number in enumerate(batch.texts):
            tokens_L = batch.tokens_BL[row][batch.mask_BL[row]]
            assert list(map(int, tokens_L)) == rows[number]
            # BOS and the first token behind it do not count.
            assert int(batch.content_BL[row].sum()) == len(rows[number]) - 2


def test_pooling_is_over_content_alone() -> None:
    acts_BLD = torch.arange(24.0).reshape(2, 4, 3)
    content_BL = torch.tensor([[False, True, True, False], [False, False, True, False]])
    assert torch.equal(pooled(acts_BLD, content_BL, "mean")[0], acts_BLD[0, 1:3].mean(0))
    assert torch.equal(pooled(acts_BLD, content_BL, "max")[1], acts_BLD[1, 2])
    assert torch.equal(pooled(acts_BLD, content_BL, "none"), acts_BLD[content_BL])
