"""A model and the same with a known edit: fits find the edit, and steering makes it."""

from typing import Any

import pytest
import torch

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.fitting.applying import applied
from sparsteer.steering.fitting.capture import sites_in_order, tokenize_texts
from sparsteer.steering.fitting.examples import Examples, unit
from sparsteer.steering.fitting.fitted import FittedEdit
from sparsteer.steering.fitting.methods.caa import fit_caa
from sparsteer.steering.fitting.methods.covariance import fit_covariance
from sparsteer.steering.fitting.methods.mean_difference import fit_mean_difference
from sparsteer.steering.fitting.methods.principal_component import fit_principal_component
from sparsteer.steering.fitting.pooling import Weights, last_token, pooled_rows, text_mean

from ..plain_families import Twins
from .conftest import POSITIVE, BiasedBy, pairs, randn, settings

TEXTS = [*POSITIVE[:2], "a", "some other words"]
LAYER, SITE = 1, "blocks.1.hook_resid_post"


def rows_of(model: LanguageModel, site: str, weights: Weights) -> torch.Tensor:
    texts = tokenize_texts(model, TEXTS)
    return pooled_rows(model, [model.site(site)], texts, weights).rows[site]


def contrast(a: LanguageModel, b: LanguageModel, site: str, pooling: Any) -> Examples:
    weights = pooling(tokenize_texts(a, TEXTS))
    return pairs(rows_of(b, site, weights), rows_of(a, site, weights))


@pytest.mark.parametrize("kind", ["bridge", "plain"])
@pytest.mark.parametrize("pooling", [text_mean, last_token])
def test_a_planted_edit_is_found_and_made(
    both: Twins, biased_by: BiasedBy, kind: str, pooling: Any
) -> None:
    base: LanguageModel = getattr(both, kind)
    delta_D = randn(base.d_model, seed=3)
    other = biased_by(LAYER, delta_D)
    examples = contrast(base, other, SITE, pooling)
    fits = {
        "mean_difference": fit_mean_difference,
        "covariance": fit_covariance,
        "principal_component": fit_principal_component,
        "caa": fit_caa,
    }
    for method, fit in fits.items():
        found = fit(examples, settings(method, pairs="pairs.jsonl"))
        assert found.direction_D is not None
        torch.testing.assert_close(found.direction_D, delta_D, rtol=0, atol=1e-11)
        edit = FittedEdit(kind="add", site=SITE, tensors={"v": found.direction_D})
        tokens = torch.tensor([tokenize_texts(base, TEXTS)[0].ids])
        with applied(base, [edit]):
            steered = base.logits(tokens)
        torch.testing.assert_close(steered, other.logits(tokens), rtol=0, atol=1e-10)
        assert (steered - base.logits(tokens)).abs().max() > 1e-3


def test_there_is_nothing_to_find_before_the_edit(both: Twins, biased_by: BiasedBy) -> None:
    other = biased_by(LAYER, randn(both.plain.d_model, seed=3))
    for site in ("blocks.0.hook_resid_post", "blocks.1.hook_resid_mid"):
        with pytest.raises(InputError, match="there is no direction between them"):
            fit_mean_difference(contrast(both.plain, other, site, text_mean), settings())


def test_strength_scales_the_edit_and_0_changes_no_bit(both: Twins) -> None:
    model, v_D = both.plain, randn(both.plain.d_model)
    tokens = torch.tensor([[1, 50, 60, 70]])
    plain, acts = model.logits(tokens), model.site(SITE).read(tokens)
    edit = FittedEdit(kind="add", site=SITE, tensors={"v": v_D})
    with applied(model, [edit], strength=0.0):
        assert torch.equal(model.logits(tokens), plain)
    with applied(model, [edit], strength=-2.5):
        torch.testing.assert_close(model.site(SITE).read(tokens), acts - 2.5 * v_D)
    assert torch.equal(model.logits(tokens), plain)


def test_what_each_kind_of_edit_does(both: Twins) -> None:
    model, tokens = both.plain, torch.tensor([[1, 50, 60, 70]])
    h = model.site(SITE).read(tokens)
    u_D, w_D, b_D = randn(32, seed=1), randn(32, seed=2), randn(32, seed=3)
    u_D = unit(u_D)

    def made(kind: str, **tensors: torch.Tensor) -> torch.Tensor:
        with applied(model, [FittedEdit(kind=kind, site=SITE, tensors=tensors)]):
            return model.site(SITE).read(tokens)

    assert (made("project_out", u=u_D) @ u_D).abs().max() < 1e-13
    torch.testing.assert_close(made("diagonal", w=w_D, b=b_D), w_D * h + b_D)
    low_D, high_D = h.amin((0, 1)), h.mean((0, 1))
    inside = (h >= low_D) & (h <= high_D)
    expected = torch.where(inside, w_D * h + b_D, h)
    torch.testing.assert_close(made("diagonal", w=w_D, b=b_D, low=low_D, high=high_D), expected)
    ablated = made("lowrank", R=u_D[None], W=torch.zeros(1, 32).double(), b=torch.zeros(1).double())
    torch.testing.assert_close(ablated, made("project_out", u=u_D))
    with pytest.raises(InputError, match="edits of the kind 'rotate' cannot be measured"):
        made("rotate", b1=u_D, b2=w_D)


def test_edits_of_one_site_read_the_same_activation(both: Twins) -> None:
    model, tokens = both.plain, torch.tensor([[1, 50, 60, 70]])
    h, v_D, u_D = model.site(SITE).read(tokens), randn(32), randn(32, seed=1)
    u_D = unit(u_D)
    edits = [
        FittedEdit(kind="add", site=SITE, tensors={"v": v_D}),
        FittedEdit(kind="project_out", site=SITE, tensors={"u": u_D}),
    ]
    with applied(model, edits):
        found = model.site(SITE).read(tokens)
    torch.testing.assert_close(found, h + v_D - (h @ u_D)[..., None] * u_D)


def test_sites_are_in_the_order_of_the_model(both: Twins) -> None:
    names = ["blocks.2.hook_resid_post", "blocks.0.hook_mlp_out", "blocks.2.hook_resid_post"]
    found = [site.name for site in sites_in_order(both.plain, names)]
    assert found == ["blocks.0.hook_mlp_out", "blocks.2.hook_resid_post"]
    assert [site.name for site in sites_in_order(both.plain, ())] == [SITE]
