"""The verb `steer calibrate`: the strength, the folder, the page, and wrong words."""

import json
from pathlib import Path

import pytest
import torch

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.config import TopKConfig
from sparsteer.steering.detox.prompts import Prompt
from sparsteer.steering.interventions.intervention import Intervention, SteeredFeature
from sparsteer.steering.interventions.spec import Edit
from sparsteer.steering.interventions.vectors import Vectors

from .conftest import SITES, Sparsteer

COST = ("--kl", "0.02", "--n-prompts", "3", "--max-new-tokens", "6")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An intervention that adds a vector, as a fit's folder has one."""
    v_D = torch.linspace(-1, 1, 32)
    edit = Edit(site=SITES[1], vectors=Vectors({"v": v_D}))
    Intervention(edits=(edit,)).save(tmp_path / "push")
    return tmp_path / "push"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("you are\nthe cat sat\nit is\nx")
    return path


@pytest.mark.slow
def test_a_strength_is_found_written_and_steered_with(
    sparsteer: Sparsteer, tiny_model_folder: Path, folder: Path, prompts: Path, tmp_path: Path
) -> None:
    model = ("--model", tiny_model_folder)
    out = tmp_path / "out"
    words = ("steer", "calibrate", folder, *model, *COST, "--prompts", prompts)
    found = sparsteer(*words, "--json").values
    assert found["met"] and found["cost"] == pytest.approx(0.02, rel=0.11)
    assert found["budget"] == {"kind": "kl", "target": 0.02} and found["out"] is None
    assert found["measured_on"]["texts"] == 3
    written = sparsteer(*words, "--out", out, "--json").values
    assert written["strength"] == found["strength"]
    read = Intervention.load(out)
    assert read.edits[0].strength == found["strength"]
    assert read.to_dict() == written["scaled"]
    kept = json.loads((out / "calibration.json").read_text())
    assert kept["evaluations"] == found["evaluations"]
    assert (out / "calibration.html").is_file() and (out / "calibration.svg").is_file()
    again = sparsteer("steer", "calibrate", out, *model, *COST, "--prompts", prompts, "--json")
    assert len(again.values["evaluations"]) == 1
    assert again.values["cost"] == pytest.approx(found["cost"])
    assert str(out) in sparsteer(*words, "--out", out).error
    shown = sparsteer(*words, "--out", out, "--force").out
    assert "0.02 was wanted" in shown and f"written: {out / 'calibration.html'}" in shown


@pytest.mark.slow
def test_a_fit_names_its_model(
    sparsteer: Sparsteer, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, words in (("positive", "you fool\nan old fool"), ("negative", "a dog\nthe cat")):
        (tmp_path / f"{name}.txt").write_text(words)
    texts = ("--positive", tmp_path / "positive.txt", "--negative", tmp_path / "negative.txt")
    fit = tmp_path / "fit"
    words = ("--model", tiny_model_folder, "--site", SITES[1], *texts, "--held-out", 0)
    assert sparsteer("steer", "fit", "mean_difference", *words, "--out", fit).status == 0

    def three(side: str) -> list[Prompt]:
        return [
            Prompt(text=text, attributes=(side,)) for text in ("you are", "the cat sat", "it is")
        ]

    monkeypatch.setattr("sparsteer.steering.evaluation.calibrated.prompts_of", three)
    found = sparsteer("steer", "calibrate", fit, "--kl", "0.5", "--json").values
    assert found["model"]["name"] == str(tiny_model_folder)
    assert found["strength"] > 0 and found["budget"] == {"kind": "kl", "target": 0.5}
    named = ("--model", tiny_model_folder)
    again = sparsteer("steer", "calibrate", fit, *named, "--kl", "0.5", "--json").values
    assert again == found


def test_what_is_no_fit_needs_a_model(sparsteer: Sparsteer, folder: Path) -> None:
    done = sparsteer("steer", "calibrate", folder, *COST)
    assert done.status == 2
    assert f"--model is missing, and {folder} has no fit.json that names one" in done.error


@pytest.mark.slow
def test_features_need_their_run(
    sparsteer: Sparsteer, tiny_model_folder: Path, prompts: Path, tmp_path: Path
) -> None:
    SparseAutoencoder(TopKConfig(d_model=32, n_latents=8, k=2), seed=1).save(tmp_path / "sae")
    feature = SteeredFeature(index=3, strength=1.0, max_activation=1.0)
    spec = Intervention.of_features(site=SITES[1], features=(feature,))
    path = tmp_path / "spec.json"
    path.write_text(spec.to_json())
    words = ("steer", "calibrate", path, "--model", tiny_model_folder, "--prompts", prompts, *COST)
    assert "give the folder of its run with --run" in sparsteer(*words).error
    found = sparsteer(*words, "--run", tmp_path / "sae", "--json").values
    assert found["met"]
    (edit,) = Intervention.from_dict(found["scaled"]).edits
    assert edit.features[0].strength == pytest.approx(found["strength"])


@pytest.mark.slow
def test_a_rise_of_perplexity_is_given_in_percent(
    sparsteer: Sparsteer, tiny_model_folder: Path, folder: Path, prompts: Path
) -> None:
    words = ("steer", "calibrate", folder, "--model", tiny_model_folder, "--neutral", prompts)
    percent = sparsteer(*words, "--perplexity", "2%", "--json").values
    fraction = sparsteer(*words, "--perplexity", "0.02", "--json").values
    assert percent["budget"] == fraction["budget"] == {"kind": "perplexity", "target": 0.02}
    assert percent["strength"] == fraction["strength"]
    assert percent["cost"] == pytest.approx(0.02, rel=0.11)


def test_a_cost_out_of_reach_is_a_warning(
    sparsteer: Sparsteer, tiny_model_folder: Path, folder: Path, prompts: Path
) -> None:
    words = ("steer", "calibrate", folder, "--model", tiny_model_folder, "--prompts", prompts)
    done = sparsteer(*words, "--kl", "50", "--largest", "2", "--max-new-tokens", "4", "--json")
    assert done.status == 0 and "warning: the wanted cost is not met" in done.err
    assert done.values["strength"] == 2.0 and not done.values["met"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "INTERVENTION is missing"),
        (("f",), "--kl is missing; give the wanted cost"),
        (("f", "--kl", "1", "--repetition", "0.1"), "--repetition cannot stand beside --kl"),
        (("f", "--kl", "0"), "--kl is 0"),
        (("f", "--perplexity", "ten"), "--perplexity is 'ten', but must be a fraction such as 10%"),
        (("f", "--perplexity", "10%"), "--neutral is missing"),
        (("f", "--kl", "1", "--neutral", "n"), "--neutral is given without --perplexity"),
        (("f", "--kl", "1", "--text-field", "a"), "--text-field is 'a', but there is no --prompts"),
        (
            ("f", "--kl", "1", "--model", "m", "--continuations", "2", "--temperature", "0"),
            "--continuations is 2, but at temperature 0 all are one",
        ),
        (("f", "--repetition", "0.1", "--statistic", "mean"), "--statistic is mean, which is of"),
        (("f", "--kl", "1", "--model", "m", "--start", "0"), "--start is 0"),
        (("no-such", "--kl", "1", "--model", "m"), "no-such"),
    ],
)
def test_wrong_words(sparsteer: Sparsteer, words: tuple[str, ...], sentence: str) -> None:
    done = sparsteer("steer", "calibrate", *words)
    assert done.status == 2
    assert sentence in done.error


def test_something_else_is_not_replaced(
    sparsteer: Sparsteer, tiny_model_folder: Path, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    words = ("steer", "calibrate", folder, "--model", tiny_model_folder, *COST)
    done = sparsteer(*words, "--out", tmp_path / "other", "--force")
    assert "is a folder of something else" in done.error
