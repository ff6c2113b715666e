"""A trace finds what was planted, and says nothing where nothing was done."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.config import TopKConfig
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.interventions.intervention import Intervention
from sparsteer.steering.interventions.spec import Edit, SteeredFeature
from sparsteer.steering.interventions.vectors import Vectors
from sparsteer.steering.texts import prompt_tokens
from sparsteer.steering.trace import figures
from sparsteer.steering.trace.answers import Questions, asked
from sparsteer.steering.trace.directions import concept_directions
from sparsteer.steering.trace.lens import LogitLens
from sparsteer.steering.trace.needle import needle
from sparsteer.steering.trace.reading import Passed, passed
from sparsteer.steering.trace.tracing import trace_of
from sparsteer.steering.trace.value_vectors import ValueVector, down_projections

from ..fitting.conftest import length, randn
from .conftest import TEXTS, own, plain, settings

SITE = "blocks.1.hook_resid_post"
VECTORS = [ValueVector(0, 3, 1.0), ValueVector(1, 8, 1.0), ValueVector(2, 5, 1.0)]


def added(v_D: torch.Tensor, site: str = SITE, strength: float = 1.0) -> Intervention:
    return Intervention(edits=(Edit(site=site, strength=strength, vectors=Vectors({"v": v_D})),))


def concept_questions(model: LanguageModel) -> Questions:
    texts = TEXTS["concept"]
    return asked(model, "concept", texts, nullcontext, chat=False, max_new_tokens=4, batch_size=2)


def directions(
    model: LanguageModel,
    spec: Intervention,
    sae: SparseAutoencoder | None = None,
    kinds: tuple[str, str] = ("concept", "unrelated"),
) -> torch.Tensor:
    concept, other = ([prompt_tokens(model, text) for text in TEXTS[kind]] for kind in kinds)
    return concept_directions(model, spec, sae, concept, other, lambda: spec.apply(model, sae))


def look(model: LanguageModel, questions: Questions, spec: Intervention | None, n: int) -> Passed:
    return passed(
        model,
        questions,
        nullcontext if spec is None else lambda: spec.apply(model),
        projections=down_projections(model),
        vectors=VECTORS,
        lens=LogitLens(model),
        tokens_T=torch.tensor([40, 41]),
        batch_size=n,
    )


def test_what_passes_is_what_one_pass_over_the_text_gives(model: LanguageModel) -> None:
    """With a constant push: read in two passes from a cache, padded, or whole and alone."""
    questions = concept_questions(model)
    spec = added(5 * randn(model.d_model, seed=1))
    together, alone = look(model, questions, spec, 3), look(model, questions, spec, 1)
    for name in ("written_NV", "questions_N", "masses_AL", "questions_A"):
        assert torch.allclose(getattr(together, name), getattr(alone, name), atol=1e-9)
    projections, lens = down_projections(model), LogitLens(model)
    for number, (row, answer) in enumerate(
        zip(questions.rows, questions.answer_tokens, strict=True)
    ):
        seen: list[torch.Tensor] = []

        def note(module: object, inputs: tuple[torch.Tensor], seen: Any = seen) -> None:
            seen.append(inputs[0][0])

        module: Any = projections[2].module
        hook = module.register_forward_pre_hook(note)
        tokens_1L = torch.tensor([[*row, *answer[:-1]]])
        with spec.apply(model):
            residual_LD = model.site("blocks.2.hook_resid_pre").read(tokens_1L)[0]
            logits_LV = model.logits(tokens_1L)[0]
        hook.remove()
        content_L = ~model.excluded_tokens(tokens_1L)[0]
        of_text = together.questions_N == number
        acts_N = together.written_NV[of_text, 2]
        assert torch.allclose(acts_N, seen[-1][content_L, 5], atol=1e-9)
        of_answer = together.questions_A == number
        behind_A = lens.mass(residual_LD[-len(answer) :], torch.tensor([40, 41]))
        assert torch.allclose(together.masses_AL[of_answer, 1], behind_A, atol=1e-9)
        p_LV = logits_LV[-len(answer) :].softmax(-1)
        last_A = together.masses_AL[of_answer, -1]
        assert torch.allclose(last_A, p_LV[:, [40, 41]].sum(-1), atol=1e-9)


def test_neurons_up_to_the_site_keep_all_and_those_behind_do_not(model: LanguageModel) -> None:
    questions = concept_questions(model)
    base = look(model, questions, None, 3)
    steered = look(model, questions, added(30 * randn(model.d_model, seed=1)), 3)
    assert torch.equal(base.written_NV[:, :2], steered.written_NV[:, :2])
    norms_V = torch.ones(3)
    before, behind = (
        figures.kept_activation(base, steered, norms_V, torch.tensor(chosen))
        for chosen in ([True, True, False], [False, False, True])
    )
    assert before is not None and (before.mean, before.low, before.high) == (1, 1, 1)
    assert behind is not None and abs(behind.mean - 1) > 0.05
    assert figures.kept_activation(base, steered, norms_V, torch.zeros(3).bool()) is None


def test_kept_activation_is_the_least_squares_factor(model: LanguageModel) -> None:
    base = look(model, concept_questions(model), None, 3)

    def with_activations(acts_NV: torch.Tensor) -> Passed:
        return Passed(
            written_NV=acts_NV,
            questions_N=base.questions_N,
            masses_AL=base.masses_AL,
            questions_A=base.questions_A,
        )

    norms_V, every = torch.tensor([1.0, 0.5, 3.0]), torch.ones(3).bool()
    for factor in (0.0, 0.3, -2.0):
        found = figures.kept_activation(
            base, with_activations(factor * base.written_NV), norms_V, every
        )
        assert found is not None and found.mean == pytest.approx(factor)
    other = with_activations(randn(*base.written_NV.shape))
    found = figures.kept_activation(base, other, norms_V, every)
    a, b = (norms_V * each.written_NV for each in (base, other))
    assert found is not None and found.mean == pytest.approx(float((a * b).sum() / (a * a).sum()))


def test_a_noisy_needle_keeps_what_it_writes_along_the_value_vector() -> None:
    model, chosen = own(), [ValueVector(0, 3, 1.0)]
    questions, projections = concept_questions(model), down_projections(model)
    before_D = projections[0].rows_FD[3].clone()

    def noisy() -> Any:
        return needle(projections, chosen, "noise", noise=0.4, seed=1)

    with noisy():
        share = float(projections[0].rows_FD[3] @ before_D / before_D.square().sum())
    base, changed = (
        passed(
            model,
            questions,
            steered,
            projections=projections,
            vectors=chosen,
            lens=LogitLens(model),
            tokens_T=torch.tensor([40, 41]),
        )
        for steered in (nullcontext, noisy)
    )
    assert abs(share - 1) > 0.05
    assert torch.allclose(changed.written_NV, share * base.written_NV)


def test_the_direction_is_what_the_intervention_adds_whichever_way(model: LanguageModel) -> None:
    v_D = randn(model.d_model, seed=4)
    found = [directions(model, spec) for spec in (added(v_D), added(-3 * v_D))]
    assert torch.allclose(found[0], found[1])
    assert abs(float(found[0][0] @ v_D)) == pytest.approx(length(v_D))
    swapped = directions(model, added(v_D), kinds=("unrelated", "concept"))
    assert torch.allclose(swapped, -found[0])
    with pytest.raises(InputError, match="changes nothing"):
        directions(model, added(v_D, strength=0.0))


def test_features_are_their_decoder_rows(model: LanguageModel) -> None:
    sae = SparseAutoencoder(TopKConfig(model.d_model, 20, 4), seed=2).double()
    features = tuple(SteeredFeature(index=n, strength=-2.0, max_activation=1.0) for n in (4, 9))
    spec = Intervention.of_features(site=SITE, features=features)
    assert torch.allclose(directions(model, spec, sae), sae.W_dec.detach()[[4, 9]])


def test_a_planted_concept_is_traced() -> None:
    """Neuron 6 of layer 1 writes v, whatever it reads; steering takes v away behind the last layer,
    so that the neuron goes on as before and is taken for the concept's."""
    model = own()
    v_D = randn(model.d_model, seed=7)
    with torch.no_grad():
        down_projections(model)[1].rows_FD[6] = v_D
    last = f"blocks.{model.n_layers - 1}.hook_resid_post"
    edit = Edit(kind="project_out", site=last, vectors=Vectors({"u": v_D}))
    texts = {**TEXTS, "restated": ["it is where", "cat"]}
    found = trace_of(model, None, Intervention(edits=(edit,)), texts, settings(value_vectors=1))
    nearest = found["value_vectors"][0]
    assert (nearest["layer"], nearest["neuron"], nearest["behind"]) == (1, 6, False)
    assert abs(nearest["cosine"]) == pytest.approx(1) and nearest["overlap"] == 1
    none, steered, needle, control = found["conditions"]
    names = [each["name"] for each in found["conditions"]]
    assert names == ["none", "steered", "needle", "random needle"] and control["draws"] == 2
    for kind in texts:
        assert none["answers"][kind]["rouge_l"]["mean"] == 1.0
        assert none["answers"][kind]["loss_rise"] == {"mean": 0.0, "ci": [0.0, 0.0]}
        assert none["answers"][kind]["questions"] == len(texts[kind])
    assert none["kept_before"]["mean"] == 1 == steered["kept_before"]["mean"]
    assert none["kept"] is None  # no layer lies behind the last
    # The concept's only vector is 0 under the needle; the control changes others of its layer.
    assert needle["kept_before"] == {"mean": 0.0, "ci": [0.0, 0.0]}
    assert control["kept_before"]["mean"] == 1
    assert steered["lens"][:-1] == none["lens"][:-1]
    assert steered["lens"][-1] != none["lens"][-1]
    assert needle["lens"][0] == none["lens"][0] and needle["lens"][1] != none["lens"][1]
    assert steered["answers"]["concept"]["loss_rise"]["mean"] != 0
    assert set(steered["recovered"]) == {"restated"}
    assert len(found["answers"]) == 9 and len(found["concept_tokens"]) == 3
    assert any("too few to say much" in text for text in found["cautions"])


def test_a_needle_of_no_noise_to_speak_of_changes_nothing() -> None:
    spec = added(randn(plain().d_model, seed=4))
    config = settings(needle="noise", noise=1e-12, draws=1, words=("a",))
    found = trace_of(plain(), None, spec, TEXTS, config)
    for name in ("needle", "random needle"):
        (arm,) = (each for each in found["conditions"] if each["name"] == name)
        assert arm["kept"]["mean"] == pytest.approx(1) and arm["kept_before"]["mean"] == (
            pytest.approx(1)
        )
        assert arm["answers"]["concept"]["same"] == 1
        assert abs(arm["answers"]["concept"]["loss_rise"]["mean"]) < 1e-9
        assert abs(arm["selectivity"]["mean"]) < 1e-9
    assert found["needle"] == "noise" and found["noise"] == 1e-12


def test_recovery() -> None:
    def rise(mean: float, low: float) -> dict[str, Any]:
        return {"loss_rise": {"mean": mean, "ci": [low, mean + 1]}}

    assert figures.recovered(rise(0.5, 0.1), rise(2.0, 1.0)) == 0.75
    assert figures.recovered(rise(0.5, -1.0), rise(2.0, 1.0)) == 0.75
    for unsure in (rise(0.0, 0.0), rise(1e-6, -0.2), rise(0.3, 0.0)):
        assert figures.recovered(rise(0.5, 0.1), unsure) is None
    draws = [np.array([1.0, 2.0]), np.array([3.0, 0.0])]
    assert figures.averaged(draws).tolist() == [2.0, 1.0]
