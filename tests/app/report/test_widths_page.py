"""The page and the table of steering over widths, of a made-up result."""

from pathlib import Path
from typing import Any

import pytest

from sparsteer.app.report.files import require_page_replaceable
from sparsteer.app.report.study_rows import DASH
from sparsteer.app.report.widths_page import (
    PAGE_FILE,
    RANDOM,
    SPLITTING_HEADINGS,
    about_reference,
    comparison_rows,
    splitting_rows,
    steering_headings,
    steering_rows,
    width_plots,
    widths_page,
    write_widths_page,
)
from sparsteer.cli.console import write_report
from sparsteer.cli.widths import report_of
from sparsteer.sae.common.errors import InputError

SCORER = "toxicity-ngrams"


def row(method: str, emt: float, **given: Any) -> dict[str, Any]:
    values = {"name": f"{method}-add", "method": method, "tier": "constant", "cost": "kl=0.3"}
    figures = {"toxicity": {SCORER: {"emt": emt}}, "neutral_perplexity": 12.0}
    plain = {"family": "sae", "strength": 0.5, "reached": True, "dose": 0.3}
    return {**values, **plain, **figures, **given}


def sharing(count: int, by_chance: float | None = 0.25) -> dict[str, Any]:
    return {"count": count, "by_chance": by_chance, "nearest": 3, "nearest_cosine": 0.7}


def run(name: str, n_latents: int, emt: float, group: list[int]) -> dict[str, Any]:
    none = {"family": "none", "cost": None, "strength": None, "dose": None}
    return {
        "name": name,
        "n_latents": n_latents,
        "best": {"feature": 17, "auroc": 0.912},
        "group": group,
        "splitting": {
            "own_best": sharing(4),
            "reference_best": sharing(6),
            "difference": sharing(2, None),
            "best_cosine": 0.31,
            "group_cosine": 0.44 if group else None,
        },
        "rows": [
            row("none", 0.6, **none),
            row("sae", emt),
            row("sae_group", emt - 0.1, reached=False, dose=0.1),
            row("random_latent", 0.5, family="random", name="random_latent-0"),
            row("random_latent", 0.4, family="random", name="random_latent-1"),
        ],
        "failed": [{"name": "sae_group_mean-add-constant", "why": "there is <none>"}],
    }


@pytest.fixture
def result(tmp_path: Path) -> dict[str, Any]:
    comparison = {
        **{"relation": "width", "cost": "kl=0.3", "tier": "constant", "scorer": SCORER},
        **{"run": "wide<b>", "method": "sae", "other_run": "narrow", "other_method": "sae"},
        **{"difference": 0.1, "low": 0.05, "high": 0.15, "p_holm": 0.0123},
    }
    return {
        "folder": str(tmp_path),
        "model": "a model",
        "site": "blocks.1.hook_resid_post",
        "reference": "narrow",
        "costs": ["kl=0.3"],
        "tiers": ["constant"],
        "scorers": [SCORER],
        "least_cosine": 0.5,
        "runs": [run("narrow", 1024, 0.30, [1, 2]), run("wide<b>", 16384, 0.40, [])],
        "comparisons": [comparison],
    }


def test_rows_say_what_was_found(result: dict[str, Any]) -> None:
    narrow, wide = splitting_rows(result)
    assert len(narrow) == len(wide) == len(SPLITTING_HEADINGS)
    assert narrow[:5] == ("narrow", "1,024", "17", "0.912", "4") and narrow[-1] == "+0.44"
    assert wide[-2:] == ("0", "\N{EN DASH}")
    rows = steering_rows(result, "kl=0.3", "constant")
    assert all(len(row) == len(steering_headings(result)) for row in rows)
    assert [row[1] for row in rows] == ["nothing", *2 * ["best latent", "group", RANDOM]]
    assert rows[0][3] == "0.600" and rows[3][3] == "0.450"  # the mean of the draws
    assert rows[2][2] == "0.5 *"  # which did not come to the cost
    assert steering_rows(result, "kl=0.3", "per_token")[1][1] == RANDOM
    ((way, beside, at, scorer, difference, p),) = comparison_rows(result)
    assert (way, beside, at) == ("wide<b>: best latent", "narrow: best latent", "kl=0.3, constant")
    assert (scorer, difference, p) == (SCORER, "+0.100 [+0.050, +0.150]", "0.0123")


def test_a_dictionary_without_a_latent_of_the_concept_is_shown(result: dict[str, Any]) -> None:
    result["runs"][0].update(best=None, group=[], splitting=None)
    assert about_reference(result) == "narrow is the narrowest dictionary"
    result["reference"] = "wide<b>"
    assert "in which a latent tells the texts apart" in about_reference(result)
    narrow, wide = splitting_rows(result)
    assert narrow[:2] == ("narrow", "1,024") and set(narrow[2:]) == {DASH}
    assert len(narrow) == len(wide) == len(SPLITTING_HEADINGS)
    assert "1,024" in widths_page(result, [])
    result["reference"] = None
    assert "in no dictionary" in about_reference(result)


def test_the_page_escapes_names_and_is_replaced_by_its_like_alone(
    result: dict[str, Any], tmp_path: Path
) -> None:
    text = widths_page(result, [])
    assert "wide&lt;b&gt;" in text and "<b>" not in text
    path = write_widths_page(result, with_plots=False)
    assert path == tmp_path / PAGE_FILE
    require_page_replaceable(tmp_path / PAGE_FILE)
    path.write_text("mine")
    with pytest.raises(InputError, match="not of sparsteer's making"):
        require_page_replaceable(tmp_path / PAGE_FILE)


@pytest.mark.slow
def test_scores_are_drawn_against_widths_where_they_differ(result: dict[str, Any]) -> None:
    (drawing,) = width_plots(result)
    assert "against the number of latents" in drawing.label and "<svg" in drawing.svg
    result["runs"][1]["n_latents"] = 1024
    assert not list(width_plots(result))


def test_the_terminal_shows_both_tables_and_what_was_left_out(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = report_of(result, tmp_path / PAGE_FILE)
    write_report(report)
    shown = capsys.readouterr().out
    assert "0.912" in shown and "0.450" in shown and PAGE_FILE in shown
    assert any("there is <none>" in warning for warning in report.warnings)
    assert any("misses its cost" in warning for warning in report.warnings)
    assert report.values["page"].endswith(PAGE_FILE)
