"""Measures of dictionaries and of several autoencoders together."""

import dataclasses
import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.app.report.files import write_plots
from sparsteer.app.report.measures import fvu
from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.sae.common.errors import InputError
from sparsteer.training.config import TrainConfig
from sparsteer.training.evaluation import evaluation
from sparsteer.training.evaluation.config import EvalConfig, EvalSettings
from sparsteer.training.evaluation.evaluation import evaluate, evaluate_all, mean_absolute_cosine
from sparsteer.training.train import train
from sparsteer.training.trainer_config import TrainerConfig


@given(st.integers(1, 23), st.integers(1, 9), st.integers(0, 99))
def test_overlap_is_the_mean_over_pairs(rows: int, width: int, seed: int) -> None:
    W = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    unit = W.double() / W.double().square().sum(-1, keepdim=True).sqrt()
    pairs = [abs(float(unit[i] @ unit[j])) for i in range(rows) for j in range(i)]
    expected = sum(pairs) / len(pairs) if pairs else 0.0
    assert mean_absolute_cosine(W) == pytest.approx(expected, abs=1e-6)


def test_overlap_of_many_rows_is_that_of_an_even_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_MOST_OVERLAP_ROWS", 10)
    W = torch.randn(40, 5)
    assert mean_absolute_cosine(W) == pytest.approx(mean_absolute_cosine(W[::4]))


@pytest.fixture(scope="module")
def runs(planted_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("runs")
    found: list[str] = []
    for k in (2, 5):
        found.append(str(folder / f"k{k}"))
        trainer = TrainerConfig(
            tokens=1280, batch_size=64, lr=3e-3, log_every=4, eval_every=8, device="cpu"
        )
        train(
            TrainConfig(cache=str(planted_cache), out=found[-1], n_latents=40, k=k, trainer=trainer)
        )
    return found


def test_several_are_what_each_is_alone(planted_cache: Path, runs: list[str]) -> None:
    settings = EvalSettings(cache=str(planted_cache), contexts=0, rows=300, device="cpu")
    seen: list[tuple[int, int]] = []
    together = evaluate_all(runs, settings, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (600, 600)
    for path, result in zip(runs, together, strict=True):
        alone = EvalConfig(sae=path, **dataclasses.asdict(settings))
        assert evaluate(alone) == result
        assert result["sae"] == path
        overlap = mean_absolute_cosine(SparseAutoencoder.load(path).W_dec.detach())
        assert result["decoder_overlap"] == overlap
        assert len(result["norms"]["row"]) == len(result["norms"]["code"]) == 300
    assert together[0]["l0"] <= 2 < together[1]["l0"]


@pytest.mark.slow
def test_plots_lie_in_the_run_folders(planted_cache: Path, runs: list[str]) -> None:
    settings = EvalSettings(cache=str(planted_cache), contexts=0, device="cpu")
    paths = write_plots(evaluate_all([runs[0], f"{runs[1]}/sae"], settings))
    parent = Path(runs[0]).parent
    wanted = {
        f"{k}/plots/{name}.svg" for k in ("k2", "k5") for name in ("density", "fvu", "l0", "zf")
    }
    wanted |= {
        "fvu-against-l0.svg",
        "front-fvu.svg",
        "report.html",
        "k2/report.html",
        "k5/report.html",
    }
    assert {str(path.relative_to(parent)) for path in paths} == wanted
    for path in paths:
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
    text = (parent / "fvu-against-l0.svg").read_text()
    assert "k2, held out at the end" in text and "k5, held out at the end" in text
    assert "k2, held out<" in (parent / "k2" / "plots" / "fvu.svg").read_text()


@pytest.mark.slow
def test_the_page_of_a_run_says_its_measures_and_settings_and_loads_nothing(
    planted_cache: Path, runs: list[str]
) -> None:
    settings = EvalSettings(cache=str(planted_cache), contexts=0, device="cpu")
    results = evaluate_all(runs, settings)
    write_plots(results)
    parent = Path(runs[0]).parent
    page = (parent / "k2" / "report.html").read_text()
    # Between tags, because the drawings are full of numbers.
    assert f">{fvu(results[0])}<" in page and f">{fvu(results[1])}<" not in page
    assert results[0]["warnings"] and all(text in page for text in results[0]["warnings"])
    assert page.count("<svg") == 4
    assert "trainer.batch_size" in page and "packages.torch" in page
    assert "http:" not in page and "https:" not in page and "<script" not in page
    comparison = (parent / "report.html").read_text()
    assert all(f"{result['fvu']:.4f}" in comparison for result in results)
    assert 'href="k5/report.html"' in comparison


@pytest.mark.slow
def test_the_comparison_goes_where_the_runs_are_and_overwrites_none(
    planted_cache: Path, runs: list[str], tmp_path: Path
) -> None:
    settings = EvalSettings(cache=str(planted_cache), contexts=0, device="cpu")
    results = evaluate_all(runs, settings)
    assert write_plots([results[0], results[0]])[-1] == Path(runs[0]).parent / "report.html"
    assert "compared" not in (Path(runs[0]) / "report.html").read_text()
    far, deep = tmp_path / "a" / "b" / "c" / "k2", tmp_path / "runs" / "grid" / "k5"
    for run, new in zip(runs, (far, deep), strict=True):
        shutil.copytree(run, new)
    moved = [{**r, "sae": str(new)} for r, new in zip(results, (far, deep), strict=True)]
    assert write_plots(moved)[-1] == far.parent / "report.html"
    shutil.copytree(runs[0], tmp_path / "runs" / "k2")
    moved[0]["sae"] = str(tmp_path / "runs" / "k2")
    assert write_plots(moved)[-1] == tmp_path / "runs" / "report.html"


@pytest.mark.slow
def test_a_hostile_name_stays_text_on_the_page(planted_cache: Path, tmp_path: Path) -> None:
    runs = [tmp_path / "<script>alert(1)<", tmp_path / "javascript:k=5%20#1?"]
    trainer = TrainerConfig(tokens=64, batch_size=32, device="cpu")
    for run in runs:
        config = TrainConfig(
            cache=str(planted_cache), out=str(run), k=2, n_latents=20, trainer=trainer
        )
        train(config)
    settings = EvalSettings(cache=str(planted_cache), contexts=0)
    write_plots(evaluate_all([str(run) for run in runs], settings))
    for folder in (tmp_path, *runs):
        assert "<script" not in (folder / "report.html").read_text()
    hrefs: list[str] = re.findall(r'<a href="([^"]+)"', (tmp_path / "report.html").read_text())
    for href, run in zip(hrefs, runs, strict=True):
        assert not urlsplit(href).scheme
        path = urlsplit(urljoin(tmp_path.as_uri() + "/", href)).path
        assert Path(unquote(path)) == run / "report.html"


def test_an_autoencoder_without_a_run_has_its_plot_beside_it(
    planted_cache: Path, tmp_path: Path
) -> None:
    SparseAutoencoder(TopKConfig(12, 20, 3)).save(tmp_path / "mine")
    settings = EvalSettings(cache=str(planted_cache), contexts=0, device="cpu")
    paths = write_plots(evaluate_all([str(tmp_path / "mine")], settings))
    assert paths == [tmp_path / "mine-plots" / name for name in ("density.svg", "zf.svg")]
    assert sorted(os.listdir(tmp_path / "mine")) == ["config.json", "sae.safetensors"]


def test_an_autoencoder_of_another_site_or_model_is_not_measured_unnoticed(
    planted_cache: Path, runs: list[str], tmp_path: Path
) -> None:
    trained = SparseAutoencoder.load(runs[0])
    assert trained.origin is not None
    settings = EvalSettings(cache=str(planted_cache), contexts=0, device="cpu")
    site = trained.origin.site
    trained.origin = dataclasses.replace(trained.origin, site="blocks.7.hook_mlp_out")
    trained.save(tmp_path / "elsewhere")
    with pytest.raises(
        InputError, match=r"elsewhere was trained at blocks\.7\.hook_mlp_out, which"
    ):
        evaluate_all([str(tmp_path / "elsewhere")], settings)
    named = dataclasses.replace(settings, site=site)
    (result,) = evaluate_all([str(tmp_path / "elsewhere")], named)
    assert result["site"] == site

    trained.origin = dataclasses.replace(trained.origin, site=site, weights_hash="cd" * 32)
    trained.save(tmp_path / "other")
    both, said = [runs[0], str(tmp_path / "other")], list[str]()
    with pytest.raises(InputError, match=r"other weights than tiny, .*or --allow-other-weights"):
        evaluate_all(both, settings)
    allowed = dataclasses.replace(settings, allow_other_weights=True)
    evaluate_all(both, allowed, say=said.append)
    assert len(said) == 1 and f"with which {both[1]} was made; it is used all" in said[0]


def test_a_wrong_one_among_several_is_named(
    planted_cache: Path, runs: list[str], tmp_path: Path
) -> None:
    SparseAutoencoder(TopKConfig(13, 20, 3)).save(tmp_path / "wide")
    settings = EvalSettings(cache=str(planted_cache), contexts=0, device="cpu")
    with pytest.raises(InputError, match=r"wide reads activations of width 13, but"):
        evaluate_all([*runs, str(tmp_path / "wide")], settings)
