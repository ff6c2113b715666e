"""Whole fits, from files to a folder: for every method, what they say, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.detox.prompts import prompts_of
from sparsteer.steering.fitting.config import FitConfig
from sparsteer.steering.fitting.fitted import Fitted
from sparsteer.steering.fitting.fitting import fit
from sparsteer.steering.fitting.saving import load_fitted
from sparsteer.steering.fitting.shift import measure_shift
from sparsteer.steering.interventions.intervention import Intervention
from sparsteer.steering.interventions.layout import places
from sparsteer.steering.registries import FIT_METHODS

from ..interventions.cases import random_sae
from ..plain_families import Twins
from .conftest import NEGATIVE, POSITIVE, BiasedBy, length, randn

SITES = ("blocks.1.hook_resid_post", "blocks.0.hook_resid_post")
NEUTRAL = ["some words", "and others"]
SOURCES = {
    "covariance": "scored",
    "principal_component": "pairs",
    "caa": "pairs",
    "reft_r1": "responses",
}
WHOLE: dict[str, Any] = {"held_out": 0.0}
QUICK: dict[str, dict[str, Any]] = {
    "lin_act": WHOLE,
    "lineas": WHOLE | {"steps": 3, "optimizer": "sgd", "lr": 1e-3},
    "reft_r1": {"epochs": 1},
}
"""Settings with which a method is fitted here; some are quick, some hold nothing out, for which
texts they hold out goes by the order."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, both: Twins, biased_by: BiasedBy) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    second: Any = biased_by(1, randn(both.plain.d_model)).network.model
    second.save_pretrained(folder / "second")
    tokenizer: Any = both.bridge.tokenizer
    tokenizer.save_pretrained(folder / "second")
    for turn, name in ((1, ""), (-1, "turned-")):
        (folder / f"{name}positive.txt").write_text("\n".join(POSITIVE[::turn]))
        (folder / f"{name}negative.txt").write_text("\n".join(NEGATIVE[::turn]))
        pairs = [
            {"prompt": f"Is {n} even? (", "positive": "AB"[n % 2], "negative": "BA"[n % 2]}
            for n in range(8)
        ]
        scored = [{"text": text, "score": n} for n, text in enumerate(POSITIVE + NEGATIVE)]
        responses = [{"prompt": "Say: ", "response": text} for text in POSITIVE]
        kinds = (("pairs", pairs), ("scored", scored), ("responses", responses))
        for kind, rows in kinds:
            text = "".join(json.dumps(row) + "\n" for row in rows[::turn])
            (folder / f"{name}{kind}.jsonl").write_text(text)
    (folder / "neutral.txt").write_text("\n".join(NEUTRAL))
    return folder


def config_of(files: Path, method: str, out: Path, turned: str = "", **given: Any) -> FitConfig:
    kind = SOURCES.get(method)
    named: dict[str, Any]
    if method == "observable":
        named = {"observable": "+e -t", "texts": str(files / f"{turned}positive.txt")}
    elif method == "model_pair":
        second = str(files / "second")
        named = {"models": ("tiny", second), "texts": str(files / f"{turned}positive.txt")}
        named |= {"model": None, "model_dtype": "float64"}
    elif kind == "responses":
        sides = {"positive": "responses.jsonl", "negative": "negative.txt"}
        named = {side: str(files / f"{turned}{name}") for side, name in sides.items()}
    elif kind is None:
        sides = ("positive", "negative")
        named = {side: str(files / f"{turned}{side}.txt") for side in sides}
    else:
        named = {kind: str(files / f"{turned}{kind}.jsonl")}
    whole: dict[str, Any] = {"method": method, "model": "tiny", "out": str(out), "site": SITES[:1]}
    whole |= named | QUICK.get(method, {})
    return FitConfig(**(whole | given))


def tensors_of(fitted: Fitted) -> dict[str, torch.Tensor]:
    vectors = places(fitted.parts)
    return {f"{p}.{n}": tensor for p, each in vectors.items() for n, tensor in each.tensors.items()}


@pytest.mark.parametrize("method", FIT_METHODS.builtin)
def test_a_fit_is_written_read_and_the_same_for_texts_in_any_order(
    both: Twins, files: Path, tmp_path: Path, method: str
) -> None:
    fitted = fit(config_of(files, method, tmp_path / "a"), both.plain)
    turned = fit(config_of(files, method, tmp_path / "b", "turned-"), both.plain)
    read = load_fitted(tmp_path / "a", both.plain)
    assert tensors_of(fitted)
    assert read.report == fitted.report
    for one, other, back in zip(
        *(tensors_of(each).values() for each in (fitted, turned, read)), strict=True
    ):
        assert torch.equal(one, back) and one.dtype == torch.float64
        if method == "reft_r1":  # It draws the texts of a step by their order.
            continue
        # A principal component of the gates has no sign of its own.
        torch.testing.assert_close(one.abs(), other.abs(), rtol=1e-6, atol=1e-9)
    assert (read.method, {edit.site for edit in read.edits} | {SITES[0]}) == (method, {SITES[0]})
    assert (fitted.gate is None and fitted.cap is None) == bool(fitted.edits)
    report = fitted.report
    assert report.n_texts + (0 if report.separation is None else 4) >= 8
    assert report.neutral_kl is None and report.change_norm is None


def test_the_report_says_what_steering_changes(both: Twins, files: Path, tmp_path: Path) -> None:
    config = config_of(
        files, "mean_difference", tmp_path / "out", neutral=str(files / "neutral.txt"), site=SITES
    )
    model, report = both.bridge, fit(config, both.bridge).report
    fitted = load_fitted(tmp_path / "out")
    assert report.separation is not None and report.change_norm is not None
    assert (report.separation["n_positive"], report.separation["n_negative"]) == (2, 2)
    assert report.separation["auroc"] == 1.0
    assert [row["site"] for row in report.details["sites"]] == [SITES[1], SITES[0]]
    shift = measure_shift(model, lambda: fitted.intervention.apply(model), NEUTRAL)
    assert report.neutral_kl == pytest.approx(shift.kl_steered_base)
    assert report.details["neutral"]["kl_steered_base_p95"] == pytest.approx(
        shift.kl_steered_base_p95
    )
    norm = length(fitted.edits[0].tensors["v"])
    tokens = [torch.tensor([[1, *model.tokenize(text)]]) for text in NEUTRAL]
    acts = [model.site(fitted.edits[0].site).read(row)[0, 2:] for row in tokens]
    ratios = norm / row_norms(torch.cat(acts))
    expected = {"p5": 0.05, "median": 0.5, "p95": 0.95}
    for name, at in expected.items():
        assert report.change_norm[name] == pytest.approx(float(ratios.quantile(at)))


def test_a_gate_takes_the_edits_of_an_earlier_fit(both: Twins, files: Path, tmp_path: Path) -> None:
    edits = config_of(files, "mean_difference", tmp_path / "edits", edit_kind="project_out")
    (edit,) = fit(edits, both.plain).edits
    assert edit.kind == "project_out" and length(edit.tensors["u"]) == pytest.approx(1)
    given = {"edits_of": str(tmp_path / "edits"), "neutral": str(files / "neutral.txt")}
    gate = config_of(files, "dsas", tmp_path / "gate", site=(), **given)
    fitted = fit(gate, both.plain)
    assert fitted.gate is not None and fitted.gate.site == edit.site
    assert torch.equal(fitted.edits[0].tensors["u"], edit.tensors["u"])
    kl = fit(replace(edits, neutral=given["neutral"], force=True), both.plain).report.neutral_kl
    assert fitted.report.neutral_kl is not None and kl is not None
    assert 0 < fitted.report.neutral_kl < kl
    assert 0 < fitted.report.details["neutral_opening"] < 1
    none = config_of(files, "ids", tmp_path / "c", edits_of=str(tmp_path / "none"))
    fit(config_of(files, "cast", tmp_path / "none"), both.plain)
    with pytest.raises(InputError, match="has a gate or a cap and no edit"):
        fit(none, both.plain)
    behind = config_of(files, "cast", tmp_path / "c", site=("blocks.2.hook_resid_post",), **given)
    with pytest.raises(InputError, match=r"site is blocks.2.hook_resid_post, which lies behind"):
        fit(behind, both.plain)
    other = LanguageModel.from_transformers(both.hf.double(), both.bridge.tokenizer)
    with torch.no_grad():
        both.hf.transformer.ln_f.bias += 1
    try:
        with pytest.raises(InputError, match="was fitted to another model than"):
            load_fitted(tmp_path / "edits", other)
    finally:
        with torch.no_grad():
            both.hf.transformer.ln_f.bias -= 1


def test_latents_are_mapped_where_an_autoencoder_is_given(
    both: Twins, files: Path, tmp_path: Path
) -> None:
    sae = random_sae(both.plain.d_model)
    sae.save(tmp_path / "sae")
    given = {"sae": str(tmp_path / "sae"), "neutral": str(files / "neutral.txt")}
    config = config_of(files, "lin_act", tmp_path / "out", **given)
    report = fit(config, both.plain).report
    steering = Intervention.load(tmp_path / "out")
    (edit,) = steering.edits
    assert edit.kind == "latents" and {"low", "high"} < set(edit.tensors)
    shift = measure_shift(both.plain, lambda: steering.apply(both.plain, sae), NEUTRAL)
    assert (
        report.neutral_kl == pytest.approx(shift.kl_steered_base, rel=1e-5)
        and shift.kl_steered_base > 0
    )
    with pytest.raises(InputError, match="give the autoencoder"):
        steering.apply(both.plain)


def test_short_texts_are_left_out_and_counted(both: Twins, tmp_path: Path) -> None:
    rows = [{"positive": f"yes {n}", "negative": f"no {n}"} for n in range(5)]
    rows += [{"positive": "y", "negative": "nothing"}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = FitConfig(
        method="caa",
        model="tiny",
        out=str(tmp_path / "out"),
        pairs=str(tmp_path / "pairs.jsonl"),
        pool="last",
    )
    report = fit(config, both.plain).report
    assert report.details["without_content"] == 2
    assert report.n_texts == 2 * 3


@pytest.mark.parametrize(
    ("method", "given", "sentence"),
    [
        ("lin_act", {"pool": "last"}, "pool is 'last', but lin_act goes with texts, each"),
        ("observable", {"site": SITES}, "observable does not compare sites, and 2 are given"),
        ("observable", {"how": "boundary"}, "pairs and --how boundary go together"),
        ("lineas", {"map": "mean"}, "map does not go with lineas"),
        ("model_pair", {"keep": "gain"}, "lines of text where rows with fields are needed"),
        ("mean_difference", {"pool": "each"}, "pool is 'each', but mean_difference goes with"),
        ("mean_difference", {"pool": "answer"}, "compares the texts of a pair"),
        ("mean_difference", {"site": ("blocks.9.hook_resid_post",)}, "has no site"),
        ("mean_difference", {"max_length": 1}, "no text has a token that counts"),
        (
            "mean_difference",
            {"held_out": 0.3, "negative": "few"},
            "there are only 2 texts on one side",
        ),
        ("ids", {"site": SITES}, "does not tell texts apart"),
    ],
)
def test_what_cannot_be_fitted(
    both: Twins, files: Path, tmp_path: Path, method: str, given: dict[str, Any], sentence: str
) -> None:
    (tmp_path / "few.txt").write_text("one text\nand another")
    named = {n: str(tmp_path / "few.txt") if v == "few" else v for n, v in given.items()}
    with pytest.raises(InputError, match=sentence):
        fit(config_of(files, method, tmp_path / "out", **named), both.plain)
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_overwritten(both: Twins, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fit(config_of(files, "caa", out), both.plain)
    with pytest.raises(InputError, match="give another --out, or --force"):
        fit(config_of(files, "caa", out), both.plain)
    fit(config_of(files, "mean_difference", out, force=True), both.plain)
    assert load_fitted(out).method == "mean_difference"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(InputError, match="something else than a fit"):
        fit(config_of(files, "caa", tmp_path / "other", force=True), both.plain)
    with pytest.raises(InputError, match="is a file, not a folder"):
        fit(config_of(files, "caa", files / "neutral.txt"), both.plain)


def test_a_damaged_fit_is_refused(both: Twins, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fit(config_of(files, "caa", out), both.plain)
    vectors = out / "vectors.safetensors"
    content = vectors.read_bytes()
    vectors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match="their digest differs"):
        load_fitted(out)
    vectors.write_bytes(content)
    description = out / "fit.json"
    description.write_text(description.read_text().replace("caa", "cab", 1))
    with pytest.raises(InputError, match="has changed since it was written"):
        load_fitted(out)
    description.unlink()
    with pytest.raises(InputError, match="there is no fit at"):
        load_fitted(out)


def test_prompts_of_the_reporting_side_are_refused(
    both: Twins, made_up_texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSTEER_CACHE", str(made_up_texts))
    sides = {
        side: [prompt.text for prompt in prompts_of(side)][:6] for side in ("tuning", "reporting")
    }
    (tmp_path / "negative.txt").write_text("\n".join(NEGATIVE))

    def config(side: str, **given: Any) -> FitConfig:
        (tmp_path / f"{side}.txt").write_text("\n".join(sides[side]))
        files = {name: str(tmp_path / f"{name}.txt") for name in ("negative",)}
        files["positive"] = str(tmp_path / f"{side}.txt")
        out = str(tmp_path / side)
        return FitConfig(method="mean_difference", model="tiny", out=out, **files, **given)

    fit(config("tuning"), both.plain)
    with pytest.raises(InputError, match="6 of 12 texts are RealToxicityPrompts prompts"):
        fit(config("reporting"), both.plain)
    fit(config("reporting", allow_reporting_side=True), both.plain)


def test_the_answers_token_may_be_counted_from_the_end(
    both: Twins, files: Path, tmp_path: Path
) -> None:
    """The answers of these pairs are the last token; what stands before it is the same in both."""
    fits = [
        fit(config_of(files, "caa", tmp_path / str(place), answer_token=place), both.plain)
        for place in (None, 1)
    ]
    found, last = (each.edits[0].tensors["v"] for each in fits)
    assert torch.equal(found, last)
    with pytest.raises(InputError, match="no direction between them"):
        fit(config_of(files, "caa", tmp_path / "2", answer_token=2), both.plain)
