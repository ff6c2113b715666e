"""Observables: directions against autograd, finite differences and exact logits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.config import TopKConfig
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.fitting.final_norm import FinalNorm, final_norm, unembedded
from sparsteer.steering.fitting.observable import fit_observable, observable_direction
from sparsteer.steering.fitting.observable_gradients import boundary_gradients
from sparsteer.steering.fitting.observable_ranking import rank_by_observable
from sparsteer.steering.fitting.observables import Observable, coupling
from sparsteer.steering.fitting.trained_config import ObservableConfig

from ..plain_families import SIX, twins
from .chains import letter, plain_model, without_blocks, wrapped

SITE = "blocks.0.hook_resid_post"
PROMPTS = ["abcd", "feed", "hijab", "cabbage"]


def prompt_rows(model: LanguageModel) -> list[list[int]]:
    return [[1, *model.tokenize(text)] for text in PROMPTS]


def config(**given: Any) -> ObservableConfig:
    settings: dict[str, Any] = {"observable": "+a -b", "site": SITE, **given}
    return ObservableConfig(**settings)


@pytest.fixture(scope="module")
def gpt2(tiny_model_folder: Path) -> LanguageModel:
    """A model whose norms compute in float64."""
    return wrapped(plain_model(tiny_model_folder, "gpt2"), tiny_model_folder)


A_B = Observable((letter("a"),), (letter("b"),))


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("width", [8, 13])
def test_the_gradient_of_a_norm_is_that_of_autograd(centered: bool, width: int) -> None:
    draw = torch.Generator().manual_seed(width)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    norm = FinalNorm(drawn(width), drawn(width), centered, 1e-5)
    x_ND, u_D = (3 * drawn(5, width) + 1).requires_grad_(), drawn(width)
    (expected_ND,) = torch.autograd.grad((norm(x_ND) @ u_D).sum(), x_ND)
    found_ND = norm.gradient(x_ND.detach(), u_D)
    torch.testing.assert_close(found_ND, expected_ND, rtol=1e-10, atol=1e-10)
    if centered:
        native = torch.nn.functional.layer_norm(x_ND, (width,), norm.gain_D, norm.bias_D, norm.eps)
    else:
        native = torch.nn.functional.rms_norm(x_ND, (width,), norm.gain_D, norm.eps) + norm.bias_D
    torch.testing.assert_close(norm(x_ND), native, rtol=1e-10, atol=1e-10)
    # On the boundary the direction is that of the weights alone.
    v_D = norm.boundary_direction(u_D)
    at_ND = x_ND.detach()
    at_ND = at_ND - (at_ND @ v_D)[:, None] * v_D / (v_D @ v_D)
    torch.testing.assert_close(
        norm.gradient(at_ND, u_D), v_D / norm.size(at_ND)[:, None], rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("family", SIX)
@pytest.mark.slow
def test_the_final_norm_of_a_model_is_found(family: str) -> None:
    """The norm that was found and the unembedding give the logits of a last residual."""
    pair = twins(family, torch.float64)
    for model in (pair.bridge, pair.plain):
        norm = final_norm(model)
        assert norm.centered == (family in ("gpt2", "gpt_neox"))
        last = f"blocks.{model.n_layers - 1}.hook_resid_post"
        h_LD = model.site(last).read(torch.tensor([[1, 70, 75, 80]]))[0]
        observable = Observable((70,), (75, 80))
        u_D = unembedded(model, observable)
        logits_LV = model.network.head(norm(h_LD)[None])[0]
        exact = observable.value(logits_LV)
        torch.testing.assert_close(norm(h_LD) @ u_D, exact, rtol=1e-5, atol=1e-5)
        seen: list[Tensor] = []

        def note(hidden: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(hidden)
            return hidden

        with model.network.head_hooked(note):
            model.logits(torch.tensor([[1, 70, 75, 80]]))
        torch.testing.assert_close(norm(h_LD), seen[0][0], rtol=1e-5, atol=1e-5)


def test_the_direct_path_is_exact_where_no_block_is_behind(tiny_model_folder: Path) -> None:
    """The observable's part that a vector adds is y . v times the sizes of the norm, exactly."""
    model = wrapped(without_blocks(plain_model(tiny_model_folder, "gpt2"), 1), tiny_model_folder)
    rows = prompt_rows(model)
    found = observable_direction(model, A_B, config(how="direct"), prompts=rows)
    assert 0.5 < found.details["cosine_of_exact_gradients"] < 1
    y_D, norm = found.y_D, final_norm(model)
    tokens = torch.tensor([rows[0]])
    bias = float(norm.bias_D @ unembedded(model, A_B))
    sizes_N = torch.stack(
        [norm.size(model.site(SITE).read(torch.tensor([row]))[0, -1]) for row in rows]
    )
    h_D = model.site(SITE).read(tokens)[0, -1]
    exact = float(A_B.value(model.logits(tokens)[0, -1]))
    predicted = float(y_D @ h_D) * float(sizes_N.median() / norm.size(h_D)) + bias
    assert predicted == pytest.approx(exact, rel=1e-9)
    moved_D = h_D + torch.linspace(-1, 1, 8, dtype=torch.float64)
    with model.site(SITE).write(lambda h_BLD: h_BLD + (moved_D - h_D)):
        exact = float(A_B.value(model.logits(tokens)[0, -1]))
    predicted = float(y_D @ moved_D) * float(sizes_N.median() / norm.size(moved_D)) + bias
    assert predicted == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("positions", ["all", "last"])
def test_the_gradient_is_how_the_observable_grows(gpt2: LanguageModel, positions: str) -> None:
    rows = prompt_rows(gpt2)
    given = config(positions=positions, batch_size=3)
    y_D = observable_direction(gpt2, A_B, given, prompts=rows).y_D
    step_D = torch.linspace(-1, 1, 8, dtype=torch.float64).cos()

    def mean_observable(size: float) -> float:
        found: list[float] = []
        for row in rows:
            where_L = torch.ones(len(row), dtype=torch.float64)
            if positions == "last":
                where_L[:-1] = 0
            push_LD = size * where_L[:, None] * step_D
            with gpt2.site(SITE).write(lambda h_BLD, push_LD=push_LD: h_BLD + push_LD):
                found.append(float(A_B.value(gpt2.logits(torch.tensor([row]))[0, -1])))
        return sum(found) / len(found)

    expected = (mean_observable(1e-5) - mean_observable(-1e-5)) / 2e-5
    assert float(y_D @ step_D) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_directions_add_up_as_observables_do(gpt2: LanguageModel) -> None:
    rows = prompt_rows(gpt2)
    b_c = Observable((letter("b"),), (letter("c"),))
    a_c = Observable((letter("a"),), (letter("c"),))
    for how in ("direct", "gradient"):
        one_D, two_D, sum_D = (
            observable_direction(gpt2, each, config(how=how), prompts=rows).y_D
            for each in (A_B, b_c, a_c)
        )
        torch.testing.assert_close(one_D + two_D, sum_D, rtol=1e-10, atol=1e-10)


def test_between_two_prompts_the_observable_is_nothing(gpt2: LanguageModel) -> None:
    letters = "abcdefghijklmnop"
    rows = [[1, *gpt2.tokenize(f"ab{one}")] for one in letters]
    values = [float(A_B.value(gpt2.logits(torch.tensor([row]))[0, -1])) for row in rows]
    up, down = rows[values.index(max(values))], rows[values.index(min(values))]
    assert max(values) > 0 > min(values)
    found, n_excluded = boundary_gradients(gpt2, SITE, A_B, [(up, down), (up, up)])
    assert n_excluded == 1
    assert abs(found[0].value) < 1e-9
    y_D = observable_direction(gpt2, A_B, config(how="boundary"), pairs=[(up, down)]).y_D
    torch.testing.assert_close(y_D, found[0].gradient_LD.sum(0))
    # Where nothing is behind but the final norm, its direction is that of the weights alone.
    last = "blocks.1.hook_resid_post"
    at_end, _ = boundary_gradients(gpt2, last, A_B, [(up, down)])
    norm = final_norm(gpt2)
    bias = float(norm.bias_D @ unembedded(gpt2, A_B))
    expected_D = norm.gradient(at_end[0].h_LD[-1], unembedded(gpt2, A_B))
    torch.testing.assert_close(at_end[0].gradient_LD[-1], expected_D, rtol=1e-9, atol=1e-9)
    assert not at_end[0].gradient_LD[:-1].any()
    assert bias != 0  # which the boundary counts
    with pytest.raises(InputError, match="equally many"):
        boundary_gradients(gpt2, SITE, A_B, [(up, down[:-1])])
    with pytest.raises(InputError, match="no pair"):
        boundary_gradients(gpt2, SITE, A_B, [(up, up)])
    with pytest.raises(InputError, match="needs pairs"):
        observable_direction(gpt2, A_B, config(how="boundary"))


def test_a_fitted_push_adds_one_logit_to_first_order(gpt2: LanguageModel) -> None:
    fitted = fit_observable(gpt2, config(), prompts=PROMPTS, neutral=["feed a cab"])
    (edit,) = fitted.edits
    before, after = 0.0, 0.0
    for row in prompt_rows(gpt2):
        tokens = torch.tensor([row])
        before += float(A_B.value(gpt2.logits(tokens)[0, -1]))
        with gpt2.site(SITE).write(lambda h_BLD: h_BLD + 1e-5 * edit.tensors["v"]):
            after += float(A_B.value(gpt2.logits(tokens)[0, -1]))
    assert (after - before) / len(PROMPTS) / 1e-5 == pytest.approx(1, rel=1e-3)
    assert fitted.report.neutral_kl is not None and fitted.report.neutral_kl > 0
    assert fitted.report.details["logits_per_unit"] == pytest.approx(
        1 / float(row_norms(edit.tensors["v"]))
    )


def test_coupling_is_the_slope_of_a_regression() -> None:
    draw = torch.Generator().manual_seed(2)
    known_MD, wanted_ND = (torch.randn(n, 6, generator=draw).double() for n in (2, 3))
    found_MN = coupling(known_MD, wanted_ND)
    h_KD = torch.randn(200_000, 6, generator=draw).double()
    for m, known_D in enumerate(known_MD):
        for n, wanted_D in enumerate(wanted_ND):
            x_K, y_K = h_KD @ known_D, h_KD @ wanted_D
            slope = (x_K @ y_K) / (x_K @ x_K)
            assert float(found_MN[m, n]) == pytest.approx(float(slope), abs=0.02)
    cosine_MN = torch.nn.functional.normalize(known_MD) @ torch.nn.functional.normalize(wanted_ND).T
    torch.testing.assert_close(found_MN * coupling(wanted_ND, known_MD).T, cosine_MN.square())
    with pytest.raises(InputError, match="length 0"):
        coupling(torch.zeros(1, 6).double(), wanted_ND)


def test_features_are_ranked_by_what_they_do(gpt2: LanguageModel) -> None:
    sae = SparseAutoencoder(TopKConfig(d_model=8, n_latents=40, k=6), seed=1).double()
    y_D = observable_direction(gpt2, A_B, config(), prompts=prompt_rows(gpt2)).y_D
    with torch.no_grad():
        sae.input_scale.fill_(2.0)
        sae.W_dec[7] = y_D / row_norms(y_D)
        sae.W_dec[11] = -sae.W_dec[7]
    ranking = rank_by_observable(gpt2, sae, config(), top=5, prompts=PROMPTS)
    assert {feature.feature for feature in ranking.features[:2]} == {7, 11}
    by_number = {feature.feature: feature for feature in ranking.features}
    assert by_number[7].cosine == pytest.approx(1)
    assert by_number[7].effect == pytest.approx(float(row_norms(y_D)) / 2)
    assert by_number[11].effect == pytest.approx(-by_number[7].effect)
    assert 0.3 < ranking.chance_cosine < 1
    for feature in ranking.features:  # attribution: the activation's part times the gradient
        assert feature.attribution is not None
    again = rank_by_observable(gpt2, sae, config(how="direct"), top=3, prompts=PROMPTS)
    assert again.features[0].attribution is None


@pytest.mark.slow
def test_attributions_are_how_the_observable_falls_without_a_latent(gpt2: LanguageModel) -> None:
    sae = SparseAutoencoder(TopKConfig(d_model=8, n_latents=12, k=4), seed=1).double()
    ranking = rank_by_observable(gpt2, sae, config(), top=12, prompts=PROMPTS)
    for feature in ranking.features[:3]:
        expected = 0.0
        for row in prompt_rows(gpt2):
            tokens = torch.tensor([row])
            acts_L = sae.encode(gpt2.site(SITE).read(tokens)).dense(12)[0, :, feature.feature]
            part_LD = acts_L.detach()[:, None] * sae.W_dec[feature.feature].detach()
            values: list[float] = []
            for sign in (1, -1):
                with gpt2.site(SITE).write(
                    lambda h_BLD, part_LD=part_LD, sign=sign: h_BLD + sign * 1e-6 * part_LD
                ):
                    values.append(float(A_B.value(gpt2.logits(tokens)[0, -1])))
            expected += (values[0] - values[1]) / 2e-6
        assert feature.attribution == pytest.approx(expected / len(PROMPTS), rel=1e-4, abs=1e-8)


def test_an_observable_is_read_as_it_is_written(tiny_model: LanguageModel) -> None:
    def parsed(text: str) -> Observable:
        return Observable.parse(text, tiny_model)

    (a,), (b,), (c,) = (tiny_model.tokenize(text) for text in "abc")
    assert parsed("+a -b") == Observable((a,), (b,))
    assert parsed("-b +a +c") == Observable((a, c), (b,))
    (minus,) = tiny_model.tokenize("-")
    assert parsed("+- -a") == Observable((minus,), (a,))
    n_V = parsed("-b +a +c").weights(259, torch.zeros(1))
    assert list(map(float, n_V[[a, b, c]])) == [0.5, -1.0, 0.5]
    assert float(n_V.sum()) == 0
    assert float(parsed("+a").weights(259, torch.zeros(1).double()).sum()) == pytest.approx(0)
    for text, said in (
        ("a -b", "without a sign"),
        ("", "without a sign"),
        ("+ab", r"is 2 tokens, \['a', 'b'\], not one"),
        ("+ a", "'a' is one, which is written without a space"),
        ("+a -a", "on both sides"),
        ("+", "is 0 tokens"),
    ):
        with pytest.raises(InputError, match=said):
            parsed(text)
