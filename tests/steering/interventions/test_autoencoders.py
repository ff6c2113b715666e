"""Features of several autoencoders in one intervention, each at the site of its own."""

import dataclasses
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.config import Sampling
from sparsteer.steering.generation import generate
from sparsteer.steering.interventions.intervention import TIERS, Intervention
from sparsteer.steering.interventions.spec import Edit, Gate, SteeredFeature
from sparsteer.steering.interventions.steering import steer

from ...tiny_runs import random_topk

SITES = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
PROMPTS = ["one two", "x", "the third of them"]


@pytest.fixture(scope="module")
def saes(tiny_model: LanguageModel) -> dict[str, SparseAutoencoder]:
    found: dict[str, SparseAutoencoder] = {}
    for seed, name in enumerate(SITES):
        sae = random_topk(tiny_model, 60, k=6, seed=seed)
        acts_BLD = tiny_model.site(name).read(tokens())
        sae.input_scale.fill_(tiny_model.d_model**0.5 / float(row_norms(acts_BLD).mean()))
        found[name] = sae
    return found


def tokens() -> Tensor:
    return torch.tensor([[1, 40, 77, 90, 12, 55, 60, 81]])


def edit_at(site: str, sae: SparseAutoencoder, model: LanguageModel, tier: str) -> Edit:
    """Adds two latents, of which one fires somewhere in `tokens`; the numbers at sites differ in
    what they mean."""
    codes = sae.encode(model.site(site).read(tokens()))
    latents = sorted({int(codes.indices[0, 4, 0]), 7})
    features = tuple(
        SteeredFeature(index=latent, strength=1.5, max_activation=2.0) for latent in latents
    )
    return Edit(kind="add", site=site, features=features, gate=Gate(kind=tier))


def logits_under(
    model: LanguageModel,
    *parts: tuple[Intervention, SparseAutoencoder | dict[str, SparseAutoencoder]],
) -> Float[Tensor, "1 L V"]:
    with ExitStack() as stack:
        for intervention, sae in parts:
            stack.enter_context(steer(model, sae, intervention))
        return model.logits(tokens())


@pytest.mark.parametrize("tier", TIERS)
def test_each_site_is_steered_as_by_its_own_autoencoder_alone(
    tier: str, tiny_model: LanguageModel, saes: dict[str, SparseAutoencoder]
) -> None:
    edits = tuple(edit_at(site, saes[site], tiny_model, tier) for site in SITES)
    both = Intervention(edits=edits)
    nested = [(Intervention(edits=(edit,)), saes[edit.site]) for edit in edits]
    found = logits_under(tiny_model, (both, saes))
    assert torch.equal(found, logits_under(tiny_model, *nested))
    for one in nested:
        assert not torch.equal(found, logits_under(tiny_model, one))
    # The order of edits and of autoencoders says nothing.
    turned = Intervention(edits=edits[::-1])
    assert torch.equal(found, logits_under(tiny_model, (turned, dict(reversed(saes.items())))))


@pytest.mark.parametrize("tier", TIERS)
def test_a_batch_is_written_as_each_prompt_alone(
    tier: str, tiny_model: LanguageModel, saes: dict[str, SparseAutoencoder]
) -> None:
    edits = tuple(edit_at(site, saes[site], tiny_model, tier) for site in SITES)
    sampling = Sampling(max_new_tokens=5)
    given: dict[str, Any] = {"intervention": Intervention(edits=edits), "sae": saes}
    together = generate(tiny_model, PROMPTS, sampling, **given)
    alone = [generate(tiny_model, [prompt], sampling, **given)[0] for prompt in PROMPTS]
    uncached = generate(tiny_model, PROMPTS, sampling, use_cache=False, **given)
    assert [text.tokens for text in together] == [text.tokens for text in alone]
    assert [text.tokens for text in together] == [text.tokens for text in uncached]


def test_one_autoencoder_for_the_only_site_is_that_autoencoder(
    tiny_model: LanguageModel, saes: dict[str, SparseAutoencoder]
) -> None:
    features = edit_at(SITES[1], saes[SITES[1]], tiny_model, "constant").features
    spec = Intervention.of_features(site=SITES[1], features=features, tier="per_token")
    by_site = logits_under(tiny_model, (spec, saes))
    assert torch.equal(by_site, logits_under(tiny_model, (spec, saes[SITES[1]])))


def test_a_common_gate_asks_the_features_of_the_site_where_it_reads(
    tiny_model: LanguageModel, saes: dict[str, SparseAutoencoder]
) -> None:
    first, second = (
        dataclasses.replace(edit_at(site, saes[site], tiny_model, "constant"), gate=None)
        for site in SITES
    )
    common = Intervention(edits=(second, first), gate=Gate(kind="per_token"))
    asked = Gate(kind="per_token", site=SITES[0], features=first.features)
    explicit = Intervention(
        edits=tuple(dataclasses.replace(edit, gate=asked) for edit in (first, second))
    )
    found = logits_under(tiny_model, (common, saes))
    assert torch.equal(found, logits_under(tiny_model, (explicit, saes)))
    everywhere = dataclasses.replace(common, gate=Gate())
    assert not torch.equal(found, logits_under(tiny_model, (everywhere, saes)))


def test_it_is_written_and_read_as_it_is(
    tiny_model: LanguageModel, saes: dict[str, SparseAutoencoder]
) -> None:
    edits = tuple(edit_at(site, saes[site], tiny_model, "per_token") for site in SITES)
    both = Intervention(edits=edits)
    assert Intervention.from_json(both.to_json()) == both


def test_what_an_autoencoder_lacks_is_named(
    tiny_model: LanguageModel, saes: dict[str, SparseAutoencoder]
) -> None:
    edits = tuple(edit_at(site, saes[site], tiny_model, "constant") for site in SITES)
    both = Intervention(edits=edits)
    with pytest.raises(InputError, match=f"features at {SITES[1]}, and there is no autoencoder"):
        steer(tiny_model, {SITES[0]: saes[SITES[0]]}, both)
    few = {**saes, SITES[1]: random_topk(tiny_model, 5)}
    with pytest.raises(InputError, match="there is no feature"):
        steer(tiny_model, few, both)
    elsewhere = Gate(kind="per_token", site=SITES[0])
    wrong = Intervention(edits=(dataclasses.replace(edits[1], gate=elsewhere),))
    with pytest.raises(InputError, match="give the gate features of its own"):
        steer(tiny_model, saes, wrong)
