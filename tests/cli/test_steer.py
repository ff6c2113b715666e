"""The verb `steer fit`: a folder, a page for people, an object for programs."""

import json
from pathlib import Path

import pytest
import torch

from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.config import TopKConfig
from sparsteer.steering.fitting.saving import load_fitted
from sparsteer.steering.interventions.intervention import Intervention
from sparsteer.steering.interventions.spec import Edit
from sparsteer.steering.interventions.vectors import Vectors

from ..steering.fitting.conftest import length
from .conftest import SITES, Sparsteer


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    words = ("cat", "dog", "hen", "owl", "fox")
    (folder / "positive.txt").write_text("\n".join(f"you {word} fool" for word in words))
    (folder / "negative.txt").write_text("\n".join(f"the {word} sat" for word in words))
    (folder / "neutral.txt").write_text("it is warm\nand dry")
    return folder


def words_for(method: str, model: Path, texts: Path, out: Path) -> tuple[object, ...]:
    return (
        *("steer", "fit", method, "--model", model, "--out", out),
        *("--positive", texts / "positive.txt", "--negative", texts / "negative.txt"),
    )


def test_a_direction_is_fitted(
    sparsteer: Sparsteer, tiny_model_folder: Path, texts: Path, tmp_path: Path
) -> None:
    words = words_for("mean_difference", tiny_model_folder, texts, tmp_path / "fit")
    neutral = ("--neutral", texts / "neutral.txt")
    values = sparsteer(*words, "--site", *SITES, *neutral, "--json").values
    assert (values["method"], values["out"]) == ("mean_difference", str(tmp_path / "fit"))
    (edit,) = values["edits"]
    assert edit["kind"] == "add" and edit["tensors"] == {"v": [32]} and values["gate"] is None
    report = values["report"]
    assert (report["n_texts"], report["separation"]["n_positive"]) == (6, 2)
    assert report["neutral_kl"] == report["details"]["neutral"]["kl_steered_base"] > 0
    assert set(report["change_norm"]) == {"median", "p5", "p95"}
    assert [row["site"] for row in report["details"]["sites"]] == list(SITES)
    written = json.loads((tmp_path / "fit" / "fit.json").read_text())
    assert written["report"] == report
    steering = Intervention.load(tmp_path / "fit")
    assert (steering.site, steering.edits[0].kind) == (edit["site"], "add")
    (read,) = load_fitted(tmp_path / "fit").edits
    assert read.tensors["v"].dtype == torch.float32
    given = ("--intervention", tmp_path / "fit", "--prompt", "a cat", "--max-new-tokens", 2)
    written = sparsteer("generate", "--model", tiny_model_folder, *given, "--json").values
    assert written["intervention"] == steering.to_dict() and written["run"] is None
    assert "RUN is missing" in sparsteer("generate", *given).error
    page = sparsteer(*words, "--site", *SITES, *neutral, "--force").out
    for part in ("fitted to 6 texts", f"edit: add at {edit['site']}", "held-out separation: AUROC"):
        assert part in page
    assert "at strength 1 on 15 neutral tokens: KL " in page
    assert f"written: {tmp_path / 'fit'}" in page


def test_a_direction_is_exported(
    sparsteer: Sparsteer, tiny_model_folder: Path, texts: Path, tmp_path: Path
) -> None:
    words = words_for("mean_difference", tiny_model_folder, texts, tmp_path / "fit")
    sparsteer(*words, "--site", SITES[0])
    v_D = load_fitted(tmp_path / "fit").edits[0].tensors["v"]
    SparseAutoencoder(TopKConfig(d_model=32, n_latents=8, k=2)).save(tmp_path / "sae")
    given = ("--intervention", tmp_path / "fit", "--out", tmp_path / "out", "--format", "lm-eval")
    words = ("export", tmp_path / "sae", "--model", tiny_model_folder, *given)
    done = sparsteer(*words, "--json")
    assert done.values["norm"] == pytest.approx(length(v_D))
    other = sparsteer(*words, "--force", "--strength", 2)
    assert other.error.startswith("--strength cannot stand beside --intervention")


def test_a_gate_says_that_it_steers_nothing_alone(
    sparsteer: Sparsteer, tiny_model_folder: Path, texts: Path, tmp_path: Path
) -> None:
    words = words_for("cast", tiny_model_folder, texts, tmp_path / "gate")
    done = sparsteer(*words, "--site", SITES[0], "--neutral", texts / "neutral.txt")
    assert f"gate: cosine at {SITES[0]}, threshold " in done.out
    assert "on neutral texts the gate is open by " in done.out
    assert "warning: this is a gate and no edit" in done.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "METHOD and --out are missing"),
        (("mean",), "--out is missing"),
        (("caa", "--out", "o", "--pairs", "p"), "--model is missing; give --model M"),
        (("lineas", "--model", "m", "--out", "o", "--steps", "0"), "--steps is 0"),
        (("model_pair", "--models", "a", "--out", "o"), "--models names 1; give two"),
        (("model_pair", "--models", "a", "b", "--out", "o"), "--texts is missing; give what"),
        (("mean", "--model", "m", "--out", "o"), "METHOD is 'mean', but must be one of mean_diff"),
        (("caa", "--model", "m", "--out", "o"), "--positive is missing; give --positive and"),
        (
            ("caa", "--model", "m", "--out", "o", "--pairs", "no-such.jsonl"),
            "no-such.jsonl",
        ),
        (
            ("caa", "--model", "m", "--out", "o", "--pairs", "p", "--pool", "lasst"),
            "--pool is 'lasst', but must be one of",
        ),
    ],
)
def test_wrong_words(sparsteer: Sparsteer, words: tuple[str, ...], sentence: str) -> None:
    done = sparsteer("steer", "fit", *words)
    assert done.status == 2
    assert sentence in done.error


def test_settings_of_other_methods_are_named_by_their_flags(
    sparsteer: Sparsteer, texts: Path, tmp_path: Path
) -> None:
    words = words_for("logistic", Path("no-such-model"), texts, tmp_path / "fit")
    done = sparsteer(*words, "--ridge", "0.1")
    assert done.status == 2
    assert done.error.startswith("--ridge does not go with logistic; leave it out")
    done = sparsteer(*words_for("caa", Path("no-such-model"), texts, tmp_path / "fit"))
    assert done.error.startswith("METHOD is caa, which is not fitted to texts given by --positive")


def test_the_verb_needs_its_second_word(sparsteer: Sparsteer) -> None:
    assert (
        "steer needs one more word: steer calibrate or steer eval or steer fit or steer trace"
        in sparsteer("steer").error
    )
    assert "--positive" in sparsteer("steer", "fit", "--help").out


def test_texts_are_written_under_interventions_by_their_names(
    sparsteer: Sparsteer, tiny_model_folder: Path, tmp_path: Path
) -> None:
    for name, size in (("weak", 0.0), ("strong", 60.0)):
        v_D = size * torch.randn(32, generator=torch.Generator().manual_seed(0))
        edit = Edit(site=SITES[0], vectors=Vectors({"v": v_D}))
        Intervention(edits=(edit,)).save(tmp_path / name)
    prompt = ("--model", tiny_model_folder, "--prompt", "a cat", "--max-new-tokens", 6)
    named = ("--interventions", *(f"{name}={tmp_path / name}" for name in ("weak", "strong")))
    values = sparsteer("generate", *prompt, *named, "--json").values
    assert list(values["interventions"]) == ["weak", "strong"] and "intervention" not in values
    (found,) = values["results"]
    assert found["steered"]["weak"]["tokens"] == found["base"]["tokens"]
    assert found["steered"]["strong"]["tokens"] != found["base"]["tokens"]
    alone = sparsteer("generate", *prompt, "--intervention", tmp_path / "strong", "--json").values
    assert alone["results"][0]["steered"] == found["steered"]["strong"]
    one = sparsteer("generate", *prompt, *named[:2], "--json").values
    assert list(one["results"][0]["steered"]) == ["weak"]
    assert "strong: steered constant: add at" in sparsteer("generate", *prompt, *named).out
    both = sparsteer("generate", *prompt, *named, "--intervention", tmp_path / "weak")
    assert "--interventions cannot stand beside --intervention" in both.error
    base = sparsteer("generate", *prompt, "--interventions", f"base={tmp_path / 'weak'}")
    assert "which is that of the unsteered text" in base.error
    more = sparsteer("generate", *prompt, *named, "--strength", 2)
    assert "--strength cannot stand beside --intervention" in more.error
