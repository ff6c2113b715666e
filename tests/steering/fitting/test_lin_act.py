"""Lin-AcT on models whose residual stream is known: planted maps, order of sites, latents."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.config import TopKConfig
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.fitting.affine_maps import mean_map
from sparsteer.steering.fitting.coordinates import Residual
from sparsteer.steering.fitting.lin_act import fit_lin_act
from sparsteer.steering.fitting.trained_config import LinActConfig
from sparsteer.steering.fitting.two_sets import samples, two_sets

from .chains import carry_letters, plain_model, without_blocks, wrapped

SITES = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
LOW = ["abcde", "jihgfa", "cafe", "beadgh", "iiajcb", "ghji", "abba", "jjdca"]
UP = [text.upper() for text in reversed(LOW)]
W_D = torch.tensor([2.0, 0.5, 1.0, 3.0, 1.5, 0.25, 1.0, 2.5], dtype=torch.float64)
B_D = torch.tensor([0.0, 1.0, -2.0, 0.5, 0.0, 3.0, 0.0, -1.0], dtype=torch.float64)


def chain(folder: Path) -> LanguageModel:
    """Upper-case letters are w times lower-case ones plus b, and no block changes anything."""
    model = without_blocks(plain_model(folder))
    carry_letters(model, W_D, B_D)
    return wrapped(model, folder)


def config(**given: Any) -> LinActConfig:
    settings: dict[str, Any] = {"sites": SITES[:1], "held_out": 0.0, "support": False, **given}
    return LinActConfig(**settings)


@pytest.mark.parametrize("pool", ["mean", "none"])
@pytest.mark.slow_except("mean")
def test_a_planted_map_is_found_on_a_model(tiny_model_folder: Path, pool: str) -> None:
    fitted = fit_lin_act(chain(tiny_model_folder), LOW, UP, config(pool=pool))
    (edit,) = fitted.edits
    assert (edit.kind, edit.site) == ("diagonal", SITES[0])
    torch.testing.assert_close(edit.tensors["w"], W_D, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(edit.tensors["b"], B_D, rtol=1e-10, atol=1e-10)
    assert fitted.report.details["cost_before"][SITES[0]] > 0.1
    assert fitted.report.details["cost_after"][SITES[0]] < 1e-20
    assert fitted.report.moved == pytest.approx(7 / 8)  # one coordinate is as it was
    assert fitted.report.n_tokens == 2 * sum(len(text) - 1 for text in LOW)


@pytest.mark.parametrize("pool", ["mean", "none"])
@pytest.mark.slow_except("mean")
def test_only_one_site_after_the_other_reaches_the_target(
    tiny_model_folder: Path, pool: str
) -> None:
    """Fitted at once, each site makes the whole way, and the second overshoots."""
    model = chain(tiny_model_folder)
    after: dict[str, float] = {}
    for order in ("incremental", "at_once"):
        fitted = fit_lin_act(model, LOW, UP, config(sites=SITES[::-1], order=order, pool=pool))
        assert [edit.site for edit in fitted.edits] == list(SITES)
        after[order] = fitted.report.details["cost_after"][SITES[1]]
        if order == "incremental":
            second = fitted.edits[1].tensors
            torch.testing.assert_close(second["w"], torch.ones_like(W_D), rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(second["b"], torch.zeros_like(W_D), rtol=1e-9, atol=1e-9)
    assert after["incremental"] < 1e-18
    assert after["at_once"] > 0.1


@pytest.mark.slow
def test_the_order_of_texts_and_batches_changes_nothing(tiny_model_folder: Path) -> None:
    model = wrapped(plain_model(tiny_model_folder), tiny_model_folder)
    one = fit_lin_act(model, LOW, UP, config(sites=SITES, batch_size=8))
    two = fit_lin_act(model, LOW[::-1], UP[3:] + UP[:3], config(sites=SITES, batch_size=3))
    for edit, other in zip(one.edits, two.edits, strict=True):
        for name, tensor in edit.tensors.items():
            torch.testing.assert_close(other.tensors[name], tensor, rtol=1e-10, atol=1e-10)


def test_a_model_whose_layer_was_changed_is_undone(tiny_model_folder: Path) -> None:
    """Of a bias that was added behind a layer, the mean map at that layer is exactly the bias."""
    base, changed = (plain_model(tiny_model_folder, "gpt2") for _ in range(2))
    delta_D = torch.linspace(-1, 1, 8, dtype=torch.float64)
    with torch.no_grad():
        changed.transformer.h[0].mlp.c_proj.bias += delta_D
    model, other = (wrapped(each, tiny_model_folder) for each in (base, changed))
    (edit,) = fit_lin_act(model, LOW, LOW, config(map="mean")).edits
    assert not edit.tensors["b"].any()
    sets = [two_sets(each, LOW, LOW, config()).source for each in (model, other)]
    place = Residual(SITES[0], 8)
    found = mean_map(samples(model, place, sets[0], "mean"), samples(other, place, sets[1], "mean"))
    torch.testing.assert_close(found.b_D, delta_D, rtol=1e-10, atol=1e-10)
    tokens = torch.tensor([[1, *model.tokenize("abcdef")]])
    with model.site(SITES[0]).write(found):
        steered = model.logits(tokens)
    torch.testing.assert_close(steered, other.logits(tokens), rtol=1e-10, atol=1e-10)


def aligned_sae(scale: float) -> SparseAutoencoder:
    """A latent for each direction of each coordinate: it reads and writes it alone."""
    sae = SparseAutoencoder(TopKConfig(d_model=8, n_latents=16, k=8)).double()
    with torch.no_grad():
        eye = torch.eye(8, dtype=torch.float64)
        sae.W_enc.copy_(torch.cat([eye, -eye]))
        sae.W_dec.copy_(torch.cat([eye, -eye]))
        sae.input_scale.fill_(scale)
    return sae


@pytest.mark.slow
def test_latents_in_place_of_coordinates(tiny_model_folder: Path) -> None:
    """Latents that read a coordinate move as it does, whatever the scale of the autoencoder."""
    model = without_blocks(plain_model(tiny_model_folder))
    with torch.no_grad():  # all activations positive, so that the first 8 latents are those
        table: Tensor = model.get_input_embeddings().weight
        table.copy_(table.abs() + 0.1)
    carry_letters(model, W_D, B_D.abs())
    language_model = wrapped(model, tiny_model_folder)
    sae = aligned_sae(3.0)
    saes = {SITES[0]: sae}
    fitted = fit_lin_act(language_model, LOW, UP, config(), saes=saes, neutral=LOW)
    (edit,) = fitted.edits
    assert edit.kind == "latents"
    assert list(map(int, edit.tensors["latents"])) == [0, 1, 2, 3, 4, 5, 7]  # 6 maps to itself
    still = edit.tensors["latents"]
    torch.testing.assert_close(edit.tensors["w"], W_D[still], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(edit.tensors["b"], 3 * B_D.abs()[still], rtol=1e-9, atol=1e-9)
    assert fitted.report.details["cost_after"][SITES[0]] < 1e-18
    assert fitted.report.neutral_kl is not None and fitted.report.neutral_kl > 0


def test_the_report_measures_what_was_held_out(tiny_model_folder: Path) -> None:
    model = chain(tiny_model_folder)
    given = config(held_out=0.4, support=None)
    report = fit_lin_act(model, LOW, UP, given, neutral=["feed a cab"]).report
    assert report.separation is not None
    assert report.separation["auroc"] > 0.9
    assert report.separation["n_positive"] == 3
    assert report.n_texts == 10
    assert report.neutral_kl is not None and report.neutral_kl > 0
    assert report.change_norm is not None
    assert report.change_norm["p5"] <= report.change_norm["median"] <= report.change_norm["p95"]
    assert report.moved is not None and 0.3 < report.moved < 7 / 8  # pooled ranges are narrow


def test_no_change_costs_nothing(tiny_model_folder: Path) -> None:
    model = chain(tiny_model_folder)
    report = fit_lin_act(model, LOW, LOW, config(), neutral=["feed a cab"]).report
    assert report.neutral_kl == pytest.approx(0, abs=1e-12)
    assert report.change_norm is not None
    assert report.change_norm["p95"] < 1e-12


def test_wrong_input_is_said(tiny_model_folder: Path) -> None:
    model = chain(tiny_model_folder)
    with pytest.raises(InputError, match="no source text has a token that counts"):
        fit_lin_act(model, ["a", ""], UP, config())
    with pytest.raises(InputError, match="has no site"):
        fit_lin_act(model, LOW, UP, config(sites=("blocks.9.hook_resid_post",)))
    with pytest.raises(InputError, match="given twice"):
        fit_lin_act(model, LOW, UP, config(sites=(SITES[0], SITES[0])))
    with pytest.raises(InputError, match="not among the sites"):
        fit_lin_act(model, LOW, UP, config(), saes={SITES[1]: aligned_sae(1.0)})
    with pytest.raises(InputError, match="at least two more"):
        fit_lin_act(model, LOW[:1], UP, config())


@pytest.mark.usefixtures("without_type_checks")
def test_wrong_settings_are_said() -> None:
    with pytest.raises(InputError, match="sites is empty"):
        config(sites=())
    with pytest.raises(InputError, match="map is 'cubic'"):
        config(map="cubic")
    with pytest.raises(InputError, match="support_quantile"):
        config(support_quantile=0.5)
    with pytest.raises(InputError, match="held_out"):
        config(held_out=1.0)
