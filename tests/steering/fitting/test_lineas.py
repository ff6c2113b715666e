"""LinEAS: where its loss is least, its gradients, its penalties, and that training resumes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.config import TopKConfig
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.fitting.coordinates import Residual, SiteMap
from sparsteer.steering.fitting.fitted import Fitted
from sparsteer.steering.fitting.lineas import Objective, fit_lineas
from sparsteer.steering.fitting.lineas_state import TrainedMap
from sparsteer.steering.fitting.trained_capture import frozen, text_batches, token_rows
from sparsteer.steering.fitting.trained_config import LinEASConfig
from sparsteer.steering.fitting.two_sets import samples

from .chains import plain_model, wrapped
from .test_lin_act import B_D, LOW, SITES, UP, W_D, chain


def config(**given: Any) -> LinEASConfig:
    settings: dict[str, Any] = {"sites": SITES, "held_out": 0.0, "steps": 4, **given}
    return LinEASConfig(**settings)


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> LanguageModel:
    return wrapped(plain_model(tiny_model_folder), tiny_model_folder)


def objective(
    model: LanguageModel, settings: LinEASConfig
) -> tuple[Objective, dict[str, TrainedMap]]:
    one_M = torch.ones(8, dtype=torch.float64)
    maps = {name: TrainedMap(one_M, 0 * one_M) for name in settings.sites}
    places = {name: Residual(name, 8) for name in settings.sites}
    target = text_batches(model, token_rows(model, UP, max_length=None, of=""), 16)
    goals = {name: samples(model, place, target, "mean") for name, place in places.items()}
    made = Objective(
        model,
        [SiteMap(places[name], each) for name, each in maps.items()],
        {name: torch.ones(8, dtype=torch.float64) for name in maps},
        token_rows(model, LOW, max_length=None, of=""),
        goals,
        settings,
    )
    return made, maps


def gradients(model: LanguageModel, maps: dict[str, TrainedMap], made: Objective) -> list[Tensor]:
    for each in maps.values():
        each.zero_grad()
    with frozen(model):
        made.backward(0)
    found: list[Tensor] = []
    for each in maps.values():
        for parameter in (each.w_M, each.shift_M):
            assert parameter.grad is not None
            found.append(parameter.grad.clone())
    return found


def test_the_loss_is_nothing_at_the_planted_map(tiny_model_folder: Path) -> None:
    model = chain(tiny_model_folder)
    made, maps = objective(model, config())
    assert made.value() > 0.1
    with torch.no_grad():
        maps[SITES[0]].w_M.copy_(W_D)
        maps[SITES[0]].shift_M.copy_(B_D)
    assert made.value() < 1e-20
    assert all(gradient.abs().max() < 1e-9 for gradient in gradients(model, maps, made))


def test_gradients_are_those_of_finite_differences(tiny_model_folder: Path) -> None:
    # GPT-2's norms compute in float64; a Llama's compute in float32 always.
    model = wrapped(plain_model(tiny_model_folder, "gpt2"), tiny_model_folder)
    made, maps = objective(model, config())
    parameters = [p for each in maps.values() for p in (each.w_M, each.shift_M)]
    with torch.no_grad():
        for number, parameter in enumerate(parameters):
            parameter += 0.1 * torch.linspace(-1, 1, 8, dtype=torch.float64) * (number + 1)
    found = gradients(model, maps, made)
    for parameter, gradient in zip(parameters, found, strict=True):
        for place in (0, 5):
            values: list[float] = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter[place] += sign * 1e-6
                values.append(made.value())
                with torch.no_grad():
                    parameter[place] -= sign * 1e-6
            expected = (values[0] - values[1]) / 2e-6
            assert float(gradient[place]) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_texts_may_pass_a_few_at_a_time(model: LanguageModel) -> None:
    whole, maps = objective(model, config(batch_size=16))
    expected = gradients(model, maps, whole)
    parts, others = objective(model, config(batch_size=3))
    for one, other in zip(gradients(model, others, parts), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert parts.value() == pytest.approx(whole.value(), rel=1e-12)


@pytest.mark.slow
def test_training_reaches_the_target_at_both_sites(tiny_model_folder: Path) -> None:
    """Where maps fitted to each site alone overshoot, those trained together do not."""
    settings = config(steps=200, lr=0.3)
    details = fit_lineas(chain(tiny_model_folder), LOW, UP, settings).report.details
    assert details["loss_before"] > 0.5
    assert details["loss_after"] < 1e-3 * details["loss_before"]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.slow
def test_training_lowers_the_loss(model: LanguageModel, optimizer: str) -> None:
    lr = {"adam": 0.1, "sgd": 0.01}[optimizer]
    report = fit_lineas(model, LOW, UP, config(steps=8, lr=lr, optimizer=optimizer)).report
    assert report.details["loss_after"] < 0.95 * report.details["loss_before"]


@pytest.mark.slow
def test_penalties_leave_sites_and_coordinates_out(model: LanguageModel) -> None:
    assert fit_lineas(model, LOW, UP, config(steps=1, l1=math.inf)).edits == ()
    assert fit_lineas(model, LOW, UP, config(steps=1, group_l2=1e6)).edits == ()
    free = fit_lineas(model, LOW, UP, config(optimizer="sgd"))
    some = fit_lineas(model, LOW, UP, config(optimizer="sgd", l1=4.0))
    moved = [fitted.report.moved or 0.0 for fitted in (free, some)]
    assert moved[0] == 1
    assert 0 <= moved[1] < 1


@pytest.mark.slow
def test_what_is_left_goes_on_without_penalties(model: LanguageModel) -> None:
    given: dict[str, Any] = {"optimizer": "sgd", "l1": 4.0}
    short = fit_lineas(model, LOW, UP, config(**given))
    longer = fit_lineas(model, LOW, UP, config(**given, post_steps=4))
    assert 0 < (short.report.moved or 0.0) < 1
    assert longer.report.moved == short.report.moved
    assert longer.report.details["loss_after"] < short.report.details["loss_after"]
    for one, other in zip(short.edits, longer.edits, strict=True):
        assert torch.equal(one.tensors["w"] != 1, other.tensors["w"] != 1)
        assert not torch.equal(one.tensors["b"], other.tensors["b"])


class _Killed(Exception):
    pass


def dying_at(step: int) -> Callable[[int, int, float], None]:
    def progress(done: int, total: int, loss: float) -> None:
        if done == step:
            raise _Killed

    return progress


def same(one: Fitted, other: Fitted) -> bool:
    pairs = zip(one.edits, other.edits, strict=True)
    return all(
        torch.equal(a.tensors[name], b.tensors[name]) for a, b in pairs for name in a.tensors
    )


@pytest.mark.parametrize("died_at", [3, 4, 5])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.slow_except("adam-5")
def test_training_that_was_interrupted_comes_to_the_same(
    model: LanguageModel, tmp_path: Path, died_at: int, optimizer: str
) -> None:
    settings = config(
        steps=4, post_steps=2, l1=0.05, texts_per_step=5, checkpoint_every=2, optimizer=optimizer
    )
    expected = fit_lineas(model, LOW, UP, settings)
    folder = tmp_path / "checkpoint"
    with pytest.raises(_Killed):
        fit_lineas(model, LOW, UP, settings, checkpoint=folder, progress=dying_at(died_at))
    steps: list[int] = []
    found = fit_lineas(
        model,
        LOW,
        UP,
        settings,
        checkpoint=folder,
        progress=lambda done, total, loss: steps.append(done),
    )
    assert steps[0] == (died_at - 1) // 2 * 2 + 1  # the last checkpoint, not the beginning
    assert same(found, expected)
    assert found.report.details == expected.report.details
    again = fit_lineas(model, LOW, UP, settings, checkpoint=folder, progress=dying_at(1))
    assert same(again, expected)


@pytest.mark.slow
def test_a_checkpoint_of_something_else_is_refused(model: LanguageModel, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    fit_lineas(model, LOW, UP, config(), checkpoint=folder)
    for texts, settings in ((LOW[1:], config()), (LOW, config(lr=0.5))):
        with pytest.raises(InputError, match="of other texts, settings or another"):
            fit_lineas(model, texts, UP, settings, checkpoint=folder)
    fit_lineas(model, LOW, UP, config(checkpoint_every=3), checkpoint=folder)
    (folder / "state.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match="delete the folder"):
        fit_lineas(model, LOW, UP, config(), checkpoint=folder)


@pytest.mark.slow
def test_seeds_decide_which_texts_are_taken(model: LanguageModel) -> None:
    one, again, other = (
        fit_lineas(model, LOW, UP, config(texts_per_step=4, seed=seed)) for seed in (1, 1, 2)
    )
    assert same(one, again)
    assert not same(one, other)


def test_a_loss_without_bound_is_said(model: LanguageModel) -> None:
    with pytest.raises(InputError, match="give a smaller lr"):
        fit_lineas(model, LOW, UP, config(lr=1e300, optimizer="sgd", standardize=False))


@pytest.mark.slow
def test_scaling_all_coordinates_scales_shifts_alone(tiny_model_folder: Path) -> None:
    """With standardized coordinates; the blocks add nothing, so that the whole stream scales."""
    found: list[Fitted] = []
    for scale in (1.0, 100.0):
        model = chain(tiny_model_folder)
        with torch.no_grad():
            table: Any = model.network.model.get_input_embeddings()
            table.weight.mul_(scale)
        found.append(fit_lineas(model, LOW, UP, config(steps=6)))
    for one, other in zip(found[0].edits, found[1].edits, strict=True):
        torch.testing.assert_close(other.tensors["w"], one.tensors["w"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other.tensors["b"], 100 * one.tensors["b"], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_latents_are_trained_through_the_autoencoder(model: LanguageModel) -> None:
    sae = SparseAutoencoder(TopKConfig(d_model=8, n_latents=24, k=5), seed=2).double()
    settings = config(sites=SITES[1:], steps=8, lr=0.1)
    fitted = fit_lineas(model, LOW, UP, settings, saes={SITES[1]: sae})
    (edit,) = fitted.edits
    assert edit.kind == "latents"
    assert len(edit.tensors["latents"]) == len(edit.tensors["w"]) == len(edit.tensors["b"])
    details = fitted.report.details
    assert details["loss_after"] < 0.8 * details["loss_before"]
    assert all(weight.grad is None for weight in sae.parameters())
