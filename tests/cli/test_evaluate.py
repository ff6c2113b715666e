"""The verb eval on a run of the tiny model."""

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch

from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.training.cautions import cautions_of_few
from sparsteer.training.data.cache.reader import ActivationCache

from .conftest import SITES, Sparsteer


def test_the_measures(sparsteer: Sparsteer, run_folder: Path, cache: Path) -> None:
    done = sparsteer("eval", run_folder / "sae", "--cache", cache, "--contexts", 5, "--json")
    assert done.status == 0
    values = done.values
    assert values["site"] == SITES[1]
    assert values["explained_variance"] == 1 - values["fvu"]
    assert values["l0"] <= 4
    assert values["language_model"]["contexts"] == 5
    assert values["loss_recovered"] == values["language_model"]["loss_recovered"]
    losses = values["language_model"]
    for measure, suffix in (("loss", ""), ("loss", "_from_mean"), ("kl", ""), ("kl", "_from_mean")):
        clean = losses["loss"] if measure == "loss" else 0.0
        ablated = losses[f"{measure}_{'mean' if suffix else 'zero'}_ablated"]
        expected = None
        if ablated > clean:
            expected = pytest.approx((ablated - losses[f"{measure}_with_sae"]) / (ablated - clean))
        assert losses[f"{measure}_recovered{suffix}"] == expected
    assert losses["loss_recovered"] is None  # this model does better without the site
    histogram = values["density_histogram"]
    assert sum(histogram["latents"]) + histogram["dead"] == 48
    assert all(math.isfinite(values[name]) for name in ("fvu", "dead_fraction", "epsilon_lbo"))


def test_it_reads_well_and_takes_the_run(
    sparsteer: Sparsteer, run_folder: Path, cache: Path
) -> None:
    done = sparsteer("eval", run_folder, "--cache", cache, "--contexts", 5)
    for word in (
        "FVU",
        "L0",
        "dead",
        "dense",
        "overlap",
        "loss with SAE",
        "recovered",
        "KL",
        "density:",
    ):
        assert word in done.out
    assert "zeroing costs nothing here" in done.out
    without = sparsteer("eval", run_folder, "--cache", cache, "--contexts", 0)
    assert without.status == 0
    assert "recovered" not in without.out


def test_how_sure_the_figures_are(sparsteer: Sparsteer, run_folder: Path, cache: Path) -> None:
    """Over documents that of the FVU, over contexts those of the losses."""
    words = ("eval", run_folder, "--cache", cache, "--rows", 700, "--contexts", 5)
    found = sparsteer(*words, "--json")
    values, data = found.values, ActivationCache(cache)
    sae = SparseAutoencoder.load(run_folder)
    x = data.held_out(site=SITES[1], limit=700).double()
    with torch.no_grad():
        missed = (x - sae(x.float()).double()).square().sum(-1)
    about_mean = (x - x.mean(0)).square().sum(-1)
    documents = data.held_out_documents(limit=700)
    names = {int(number) for number in documents}
    left = [float((missed - values["fvu"] * about_mean)[documents == name].sum()) for name in names]
    n = values["documents"]
    assert n == len(names) > 3
    variance = n / (n - 1) * sum(each**2 for each in left)
    expected = math.sqrt(variance) / float(about_mean.sum())
    assert values["fvu_standard_error"] == pytest.approx(expected, rel=1e-3)
    losses = values["language_model"]
    for name in ("loss", "loss_with_sae", "loss_mean_ablated", "kl_with_sae", "kl_recovered"):
        assert 0 < losses[f"{name}_standard_error"] < 1
    assert losses["loss_recovered_standard_error"] is None  # as the fraction itself
    few_rows, few_documents, few_contexts = values["warnings"]
    assert few_rows.startswith("on only 700 held-out rows")
    assert f"only {n} documents" in few_documents and "only 5 contexts" in few_contexts
    shown = sparsteer(*words)
    assert f"{values['fvu']:.4f} ± {values['fvu_standard_error']:.4f}" in shown.out
    assert f"{losses['loss']:.3f} ± {losses['loss_standard_error']:.3f}" in shown.out
    assert f"on 700 held-out rows of {n} documents" in shown.out
    for text in values["warnings"]:
        assert text in " ".join(shown.err.split())
    one = sparsteer(*words[:-1], 1, "--json").values
    assert one["language_model"]["loss_standard_error"] is None
    assert "only 1 context," in one["warnings"][-1]


@pytest.mark.parametrize(
    ("rows", "documents", "contexts", "few"),
    [(5000, 30, 30, ""), (5000, 30, None, ""), (4999, 30, 30, "rows"), (5000, 29, 30, "documents")],
)
def test_cautions_are_of_few(rows: int, documents: int, contexts: int | None, few: str) -> None:
    losses = None if contexts is None else {"contexts": contexts}
    found = cautions_of_few(rows, documents, losses)
    assert len(found) == bool(few) and all(few in text for text in found)


@pytest.fixture
def sae(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of the autoencoder, to be damaged."""
    return Path(shutil.copytree(run_folder / "sae", tmp_path / "sae"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "where an object {...} is needed"),
        ('{"format": "other"}', "is not a sparsteer autoencoder's configuration"),
    ],
)
def test_a_broken_configuration(
    sparsteer: Sparsteer, sae: Path, cache: Path, text: str, sentence: str
) -> None:
    (sae / "config.json").write_text(text)
    done = sparsteer("eval", sae, "--cache", cache)
    assert done.status == 2
    assert sentence in done.error
    assert str(sae / "config.json") in done.error


def test_an_unknown_key(sparsteer: Sparsteer, sae: Path, cache: Path) -> None:
    values = json.loads((sae / "config.json").read_text())
    values["n_latent"] = values.pop("n_latents")
    del values["sha256"], values["files"]
    values["version"] = 1
    (sae / "config.json").write_text(json.dumps(values))
    done = sparsteer("eval", sae, "--cache", cache)
    assert done.status == 2
    assert "there is no key 'n_latent'; did you mean n_latents?" in done.error


def test_truncated_weights(sparsteer: Sparsteer, sae: Path, cache: Path) -> None:
    weights = sae / "sae.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    done = sparsteer("eval", sae, "--cache", cache)
    assert done.status == 2
    assert str(weights) in done.error


def test_another_width(sparsteer: Sparsteer, cache: Path, tmp_path: Path) -> None:
    SparseAutoencoder(TopKConfig(31, 40, 2)).save(tmp_path / "narrow")
    done = sparsteer("eval", tmp_path / "narrow", "--cache", cache, "--site", SITES[0])
    assert done.status == 2
    assert "of width 31" in done.error
    assert "has width 32" in done.error


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--site", "blocks.1.hook_resid_pots"], SITES[1]),
        (["--rows", "0"], "--rows is 0"),
        (["--rows", "1"], "--rows is 1, but one row has no variance"),
        (["--model", "no/such/model"], "no/such/model"),
    ],
)
def test_wrong_input(
    sparsteer: Sparsteer, run_folder: Path, cache: Path, words: list[str], sentence: str
) -> None:
    done = sparsteer("eval", run_folder, "--cache", cache, *words)
    assert done.status == 2
    *_, last = done.err.splitlines()
    assert last.startswith("error: ")
    assert sentence in last


def test_a_missing_autoencoder(sparsteer: Sparsteer, cache: Path, tmp_path: Path) -> None:
    done = sparsteer("eval", tmp_path / "no", "--cache", cache)
    assert done.status == 2
    assert f"{tmp_path / 'no'} does not exist" in done.error
    done = sparsteer("eval", tmp_path, "--cache", cache)
    assert f"{tmp_path} holds no config.json" in done.error


@pytest.mark.slow
def test_several_autoencoders_share_one_pass(
    sparsteer: Sparsteer, run_folder: Path, cache: Path, tmp_path: Path
) -> None:
    SparseAutoencoder(TopKConfig(32, 40, 2)).save(tmp_path / "other")
    words = ("--cache", cache, "--contexts", 5, "--site", SITES[1])
    done = sparsteer("eval", run_folder, tmp_path / "other", *words)
    assert done.status == 0
    assert any(line.startswith("measuring: ") for line in done.err.splitlines())
    assert "\ntiny " in done.out and "\nother " in done.out
    together = sparsteer("eval", run_folder, tmp_path / "other", *words, "--json").values
    first, second = together["evaluations"]
    alone = sparsteer("eval", run_folder, *words, "--json").values
    assert first == alone
    for name in ("loss", "loss_zero_ablated", "kl_mean_ablated"):
        assert first["language_model"][name] == second["language_model"][name]
    assert first["language_model"]["kl_with_sae"] != second["language_model"]["kl_with_sae"]


def test_plots(sparsteer: Sparsteer, run_folder: Path, cache: Path, tmp_path: Path) -> None:
    run = shutil.copytree(run_folder, tmp_path / "run")
    done = sparsteer("eval", run, "--cache", cache, "--contexts", 0, "--plots", "--json")
    plots = [f"plots/{name}.svg" for name in ("density", "zf", "fvu", "l0")]
    assert done.values["plots"] == [str(run / name) for name in (*plots, "report.html")]
    assert all(Path(path).is_file() for path in done.values["plots"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report.html", "plots/zf.svg"])
def test_a_page_that_is_not_of_eval_is_kept(
    sparsteer: Sparsteer, run_folder: Path, cache: Path, tmp_path: Path, name: str
) -> None:
    run = shutil.copytree(run_folder, tmp_path / "run")
    mine = run / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("<p>years of work")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    words = ("eval", run, "--cache", cache, "--contexts", 0, "--plots")
    done = sparsteer(*words)
    assert done.status == 2
    assert str(mine) in done.error and "--force to replace it" in done.error
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert sparsteer(*words, "--force").status == 0
    made = mine.read_text()
    assert "years of work" not in made
    assert sparsteer(*words).status == 0, "its own it replaces"


def test_without_matplotlib_plots_are_refused_first(
    sparsteer: Sparsteer, run_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = sparsteer("eval", run_folder, "--cache", cache, "--plots")
    assert done.status == 2
    assert "pip install 'sparsteer[plots]'" in done.error
