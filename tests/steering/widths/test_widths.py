"""Steering over widths from the settings to the result, on a tiny model."""

import json
from pathlib import Path
from typing import Any

import pytest

from sparsteer.app.report.widths_page import write_widths_page
from sparsteer.sae import LanguageModel
from sparsteer.sae.common.errors import InputError
from sparsteer.steering.errors import NotDefined
from sparsteer.steering.study.config import StudyConfig
from sparsteer.steering.study.context import StudyContext
from sparsteer.steering.study.measuring import kept_scores
from sparsteer.steering.widths.config import METHODS
from sparsteer.steering.widths.runner import run_widths
from sparsteer.steering.widths.runs import opened_runs

from ...tiny_runs import random_topk
from .conftest import MakeConfig


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in (".json", ".jsonl")
    }


@pytest.mark.slow
def test_every_dictionary_is_steered_with_at_the_same_cost(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config, said = make_config(), list[str]()
    result = run_widths(config, say=said.append)
    assert [run["name"] for run in result["runs"]] == ["narrow", "wide"]
    assert result["reference"] == "narrow" and result["tiers"] == ["constant"]
    for run in result["runs"]:
        assert not run["failed"]
        names = {row["method"] for row in run["rows"]}
        assert names == {"none", *METHODS, "random_latent"}
        assert run["best"]["auroc"] > 0.5
        assert 0 < len(run["group"]) <= 3
        # Each is the strength of one cost, and what it wrote is scored.
        for row in run["rows"]:
            assert row["cost"] == (None if row["method"] == "none" else "kl=0.3")
            kept = kept_scores(tmp_path / "out" / run["name"], row["name"], "toxicity-ngrams")
            assert kept.shape == (3, 2)
            emt = row["toxicity"]["toxicity-ngrams"]["emt"]
            assert emt == pytest.approx(kept.max(1).mean())
    # The unsteered model writes the same beside each of them.
    base = [run["rows"][0]["toxicity"] for run in result["runs"]]
    assert base[0] == base[1]
    narrow, wide = (run["splitting"] for run in result["runs"])
    assert narrow["reference_best"] == narrow["own_best"]
    assert wide["reference_best"]["nearest_cosine"] <= 1
    saved = json.loads((tmp_path / "out" / "widths.json").read_text())
    assert json.loads(json.dumps(result)) == saved

    page = write_widths_page(result, with_plots=True).read_text()
    assert page.count("<svg") == 1 and "http" not in page.partition("</head>")[2]
    before, said_again = files_in(tmp_path / "out"), list[str]()
    assert run_widths(config, say=said_again.append) == result
    assert files_in(tmp_path / "out") == before
    assert any("building the feature index" in sentence for sentence in said)
    assert not any("measuring scores" in sentence for sentence in said_again)


def test_a_dictionary_without_a_latent_of_the_concept_ends_nothing(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The narrow one has none, so that the wide one is the reference."""
    left_out = {"name": "sae-add", "why": "no feature fires"}

    def found(context: StudyContext) -> dict[str, Any]:
        if context.folder.name == "narrow":
            raise NotDefined("no feature fires in any text")
        best = {"feature": 7, "auroc_mean": 0.9, "firing_positive": 0.5, "firing_negative": 0.0}
        return {"features": [best], "group": [{"feature": 9, "weight": 1.0}]}

    def run_study(study: StudyConfig, *given: Any, **named: Any) -> dict[str, Any]:
        del study, given, named
        row = {"method": "none", "tier": "constant", "cost": None}
        return {"rows": [row], "comparisons": [], "failed": [left_out]}

    def no_indexes(*given: Any) -> None:
        del given

    runner = "sparsteer.steering.widths.runner"
    monkeypatch.setattr(StudyContext, "found", property(found))
    monkeypatch.setattr(f"{runner}.run_study", run_study)
    monkeypatch.setattr(f"{runner}.require_indexes", no_indexes)
    result = run_widths(make_config())
    narrow, wide = result["runs"]
    assert narrow["best"] is None and narrow["splitting"] is None and narrow["group"] == []
    why = {"name": "best latent", "why": "no feature fires in any text"}
    assert narrow["failed"] == [left_out, why]
    assert result["reference"] == "wide" and wide["best"]["feature"] == 7
    assert wide["splitting"]["reference_best"] == wide["splitting"]["own_best"]
    assert result["comparisons"] == []


def test_runs_are_found_in_a_folder_and_sorted_by_width(make_config: MakeConfig) -> None:
    config = make_config()
    assert [(run.name, run.n_latents) for run in opened_runs(config)] == [
        ("narrow", 40),
        ("wide", 96),
    ]
    with pytest.raises(InputError, match="more than once"):
        opened_runs(make_config(runs=(*config.runs, f"{config.runs[0]}/wide")))


def test_dictionaries_of_other_sites_do_not_compare(
    make_config: MakeConfig, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    narrower = random_topk(tiny_model, 8)
    assert narrower.origin is not None
    object.__setattr__(narrower.origin, "site", "blocks.0.hook_resid_post")
    narrower.save(tmp_path / "elsewhere" / "sae")
    config = make_config(runs=(*make_config().runs, str(tmp_path / "elsewhere")))
    with pytest.raises(InputError, match="where directions mean other things"):
        opened_runs(config)


def test_a_run_without_an_index_needs_a_cache(
    make_config: MakeConfig, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    random_topk(tiny_model, 8).save(tmp_path / "run" / "sae")
    with pytest.raises(InputError, match="has no feature index"):
        run_widths(make_config(runs=(str(tmp_path / "run"),), cache=None))


def test_settings_are_refused_before_anything_is_loaded(make_config: MakeConfig) -> None:
    for given, words in (
        ({"runs": ()}, "runs is empty"),
        ({"cost": ("kl",)}, "cost is 'kl'"),
        ({"least_cosine": 0.0}, "least_cosine"),
        ({"draws": 0}, "draws"),
        ({"group": "many"}, "group"),
    ):
        with pytest.raises(InputError, match=words):
            make_config(**given)
