"""A model and the same with a known edit: fits find the edit, and steering makes it."""

from typing import Any

import pytest
import torch

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.fitting.capture import sites_in_order, tokenize_texts
from sparsteer.steering.fitting.examples import Examples
from sparsteer.steering.fitting.fitted import fitted_edit
from sparsteer.steering.fitting.methods.caa import fit_caa
from sparsteer.steering.fitting.methods.covariance import fit_covariance
from sparsteer.steering.fitting.methods.mean_difference import fit_mean_difference
from sparsteer.steering.fitting.methods.principal_component import fit_principal_component
from sparsteer.steering.fitting.pooling import Weights, last_token, pooled_rows, text_mean
from sparsteer.steering.interventions.intervention import Intervention

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


@pytest.mark.slow_except("text_mean-bridge", "last_token-plain")
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
        edit = fitted_edit("add", SITE, {"v": found.direction_D})
        tokens = torch.tensor([tokenize_texts(base, TEXTS)[0].ids])
        with Intervention(edits=(edit,)).apply(base):
            steered = base.logits(tokens)
        torch.testing.assert_close(steered, other.logits(tokens), rtol=0, atol=1e-10)
        assert (steered - base.logits(tokens)).abs().max() > 1e-3


def test_there_is_nothing_to_find_before_the_edit(both: Twins, biased_by: BiasedBy) -> None:
    other = biased_by(LAYER, randn(both.plain.d_model, seed=3))
    for site in ("blocks.0.hook_resid_post", "blocks.1.hook_resid_mid"):
        with pytest.raises(InputError, match="there is no direction between them"):
            fit_mean_difference(contrast(both.plain, other, site, text_mean), settings())


def test_sites_are_in_the_order_of_the_model(both: Twins) -> None:
    names = ["blocks.2.hook_resid_post", "blocks.0.hook_mlp_out", "blocks.2.hook_resid_post"]
    found = [site.name for site in sites_in_order(both.plain, names)]
    assert found == ["blocks.0.hook_mlp_out", "blocks.2.hook_resid_post"]
    assert [site.name for site in sites_in_order(both.plain, ())] == [SITE]
