"""Value vectors are found, changed for a while and restored, and nothing else is."""

from typing import Any

import pytest
import torch

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.trace.needle import needle
from sparsteer.steering.trace.value_vectors import (
    ValueVector,
    chance_cosine,
    down_projections,
    drawn_like,
    nearest_value_vectors,
)

from ..fitting.conftest import randn
from ..model_families import auto_model
from .conftest import own, plain

FAMILIES = ("gpt2", "llama", "gpt_neox")
TOKENS = torch.tensor([[1, 40, 50, 60, 70, 80]])


def weights(model: LanguageModel) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in model.network.model.parameters()]


@pytest.mark.slow_except("gpt2")
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_what_neurons_write(family: str) -> None:
    """With all activations but one at 0 the module's output is that neuron's row."""
    model = plain(family)
    for number, each in enumerate(down_projections(model)):
        module: Any = each.module
        neuron = 3 + number
        rows_FD = each.rows_FD
        acts_F = torch.zeros(len(rows_FD), dtype=torch.float64)
        silent_D = module(acts_F[None])[0]
        acts_F[neuron] = 2.5
        assert torch.allclose(module(acts_F[None])[0] - silent_D, 2.5 * rows_FD[neuron])
        assert each.layer == number and rows_FD.shape[1] == model.d_model


@pytest.mark.slow_except("gpt2")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_needle_takes_away_exactly_what_the_neurons_write(family: str) -> None:
    """The residual behind the layer loses activation times value vector, at each token."""
    model = plain(family)
    projections = down_projections(model)
    layer, neurons = 1, [2, 9]
    vectors = [ValueVector(layer, neuron, 1.0) for neuron in neurons]
    seen: list[torch.Tensor] = []
    module: Any = projections[layer].module

    def note(module: object, inputs: tuple[torch.Tensor]) -> None:
        seen.append(inputs[0].clone())

    hook = module.register_forward_pre_hook(note)
    site = model.site(f"blocks.{layer}.hook_resid_post")
    before_BLD = site.read(TOKENS)
    hook.remove()
    written_BLD = seen[0][..., neurons] @ projections[layer].rows_FD[neurons]
    kept = weights(model)
    with needle(projections, vectors):
        assert torch.allclose(before_BLD - site.read(TOKENS), written_BLD, atol=1e-12)
    assert all(map(torch.equal, kept, weights(model)))
    assert torch.equal(site.read(TOKENS), before_BLD)


def test_noise_changes_the_rows_alone_and_none_of_it_nothing(model: LanguageModel) -> None:
    projections = down_projections(model)
    vectors = [ValueVector(0, 4, 1.0), ValueVector(2, 1, 1.0), ValueVector(2, 7, 1.0)]
    logits = model.logits(TOKENS)
    with needle(projections, vectors, "noise", noise=0.0):
        assert torch.equal(model.logits(TOKENS), logits)
    kept = [each.rows_FD.clone() for each in projections]
    changes: list[list[torch.Tensor]] = []
    for seed in (0, 0, 1):
        with needle(projections, vectors, "noise", noise=0.1, seed=seed):
            now = zip(projections, kept, strict=True)
            changes.append([each.rows_FD - before for each, before in now])
    moved = {
        (layer, int(row))
        for layer, change_FD in enumerate(changes[0])
        for row in change_FD.abs().sum(dim=1).nonzero()[:, 0]
    }
    assert moved == {(vector.layer, vector.neuron) for vector in vectors}
    noise = torch.cat([change[change.abs().sum(1) > 0].flatten() for change in changes[0]])
    assert 0.07 < float(noise.std()) < 0.13
    assert all(map(torch.equal, changes[0], changes[1]))
    assert not torch.equal(changes[0][2], changes[2][2])


def test_rows_are_restored_after_an_error(model: LanguageModel) -> None:
    projections = down_projections(model)
    kept = weights(model)
    with pytest.raises(RuntimeError), needle(projections, [ValueVector(0, 1, 1.0)]):
        raise RuntimeError
    assert all(map(torch.equal, kept, weights(model)))


def test_planted_vectors_are_the_nearest_on_either_side() -> None:
    model = own()
    projections = down_projections(model)
    one_D, other_D = randn(2, model.d_model, seed=3)
    with torch.no_grad():
        projections[2].rows_FD[11] = 0.1 * one_D
        projections[0].rows_FD[5] = -4 * other_D + 0.1 * one_D
        projections[1].rows_FD[6] = 0.0
    directions_KD = torch.stack([one_D, 7 * other_D])
    found = nearest_value_vectors(projections, directions_KD, 5)
    assert [(each.layer, each.neuron) for each in found[:2]] == [(2, 11), (0, 5)]
    assert found[0].cosine == pytest.approx(1.0)
    assert -1 < found[1].cosine < -0.95
    sizes = [abs(each.cosine) for each in found]
    assert sizes == sorted(sizes, reverse=True) and len(found) == 5
    assert found == nearest_value_vectors(projections, directions_KD.flip(0), 5)


def test_controls_are_others_of_the_same_layers(model: LanguageModel) -> None:
    projections = down_projections(model)
    vectors = [ValueVector(0, 4, 1.0), ValueVector(2, 1, 1.0), ValueVector(2, 7, 1.0)]
    drawn = drawn_like(projections, vectors, seed=1)
    assert sorted(each.layer for each in drawn) == [0, 2, 2]
    assert not {(v.layer, v.neuron) for v in drawn} & {(v.layer, v.neuron) for v in vectors}
    assert drawn == drawn_like(projections, vectors, seed=1)
    assert drawn != drawn_like(projections, vectors, seed=2)
    many = [ValueVector(1, neuron, 1.0) for neuron in range(len(projections[1].rows_FD))]
    with pytest.raises(InputError, match="has 0 value vectors besides"):
        drawn_like(projections, many, seed=0)


def test_random_vectors_come_as_near_as_chance_says() -> None:
    rows_ND = randn(4000, 48, seed=5)
    unit_ND = rows_ND / rows_ND.square().sum(1, keepdim=True).sqrt()
    largest = float((unit_ND @ unit_ND[0])[1:].abs().max())
    assert largest == pytest.approx(chance_cosine(4000, 48), rel=0.25)


def test_a_mixture_of_experts_is_refused() -> None:
    import transformers

    config = transformers.MixtralConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=3,
    )
    model = LanguageModel.from_transformers(auto_model.from_config(config).eval())
    with pytest.raises(InputError, match="a mixture of experts"):
        down_projections(model)
