"""The page of a study, its plots, and the table of the terminal."""

import copy
import io
import re
from pathlib import Path
from typing import Any

import pytest

from sparsteer.app.report.files import require_page_replaceable
from sparsteer.app.report.study_page import (
    PAGE_FILE,
    study_page,
    write_study_page,
)
from sparsteer.app.report.study_plots import calibration_sweeps, study_fronts
from sparsteer.app.report.study_rows import cost_tables, criteria, goal_lines, shown_cost
from sparsteer.cli.study_table import study_table
from sparsteer.sae.common.errors import InputError
from sparsteer.steering.study.comparing import compare_rows
from sparsteer.steering.study.config import StudyConfig

from ...steering.study.made_rows import (
    MEAN,
    N_CONTINUATIONS,
    N_PROMPTS,
    NONE,
    SAE,
    SCORERS,
    made_row,
    made_study,
)

COSTS = ("perplexity=10%", "kl=0.3")
TEN = f"{SAE.name}@perplexity-10pc"


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    rows = made_study(draws=2)
    tried = [{"strength": 1.0, "dose": 0.02}, {"strength": 2.0, "dose": 0.1}]
    broken = {"strength": 4.0, "dose": None}
    return {
        **compare_rows(rows, StudyConfig(out="study", run="run")),
        "folder": "study",
        "run": "runs/<b>topk</b>",
        "model": "tiny",
        "site": "blocks.1.hook_resid_post",
        "scorers": list(SCORERS),
        "costs": list(COSTS),
        "sizes": {"prompts": N_PROMPTS, "continuations": N_CONTINUATIONS},
        "failed": [{"name": "cast@kl-0.3", "why": "its gate opens nowhere"}],
        "calibration": {row["name"]: {"evaluations": [*tried, broken]} for row in rows},
        "samples": {row["name"]: [{"prompt": "<i>It", "text": " rains."}] for row in rows},
    }


@pytest.fixture
def result(made: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return {**copy.deepcopy(made), "folder": str(tmp_path)}


def test_each_cost_has_a_table_with_the_best_first(result: dict[str, Any]):
    tables = list(cost_tables(result))
    assert [table.heading for table in tables] == [
        "at 10% perplexity of neutral text",
        "at a KL of 0.3 nats",
    ]
    names = [name for name, _ in tables[0].lines]
    assert names[:3] == ["unsteered", "prompt", SAE.name]
    assert names[-1] == "random_direction (\u00d72)"
    cells = {name: dict(zip(tables[0].columns, own, strict=True)) for name, own in tables[0].lines}
    row = next(row for row in result["rows"] if row["name"] == TEN)
    base = next(row for row in result["rows"] if row["name"] == "none")
    of = row["toxicity"][SCORERS[0]]
    before = base["toxicity"][SCORERS[0]]["emt"]
    shown = cells[SAE.name]
    assert shown[f"change {SCORERS[0]}"] == f"{100 * (of['emt'] / before - 1):+.1f}%"
    assert shown[f"EMT {SCORERS[0]}"].startswith(f"{of['emt']:.3f} [")
    assert shown["neutral perplexity"] == "+10.8%" and shown["fire rate"] == "100.0%"
    assert cells["prompt"]["neutral perplexity"] == "\N{EN DASH}"


def test_random_ways_are_their_mean(result: dict[str, Any]):
    draws = [row for row in result["rows"] if row["draw"] is not None and row["cost"] == COSTS[0]]
    mean = sum(row["toxicity"][SCORERS[1]]["emt"] for row in draws) / len(draws)
    table = next(cost_tables(result))
    cells = dict(zip(table.columns, dict(table.lines)["random_direction (\u00d72)"], strict=True))
    assert cells[f"EMT {SCORERS[1]}"] == f"{mean:.3f}"


def test_a_strength_without_its_cost_says_so(result: dict[str, Any]):
    row = next(row for row in result["rows"] if row["name"] == TEN)
    for dose, word in ((0.02, "below"), (0.3, "above")):
        row |= {"reached": False, "dose": dose, "strength": 2.0}
        cells = dict(next(cost_tables(result)).lines)[SAE.name]
        assert cells[0] == f"2 {word}"


def test_the_verdict_in_sentences(result: dict[str, Any]):
    goal = result["goal"][0]
    lines = list(goal_lines(goal))
    assert lines[0].endswith(f"{SAE.name} is the best with the autoencoder")
    assert "cuts the score by" in lines[2] and f"of the score of {MEAN.name}" in lines[2]
    for one in ("cut_otherwise", "ratio_otherwise"):
        value = goal["scorers"][SCORERS[0]][one]
        shown = f"{value:.2f}" if one == "ratio_otherwise" else f"{value:.1%}"
        assert f"(chosen elsewhere: {shown})" in lines[2]
    errors = goal["scorers"][SCORERS[0]]["random"]["random_direction"]["standard_errors_otherwise"]
    assert f"below random_direction (chosen elsewhere: {errors:.1f})" in lines[2]
    assert "measured to cost 10.8%" in lines[1]
    assert [met for _, met in criteria(goal)] == [True, True]


def test_a_verdict_that_cost_too_much_is_not_one(result: dict[str, Any]):
    goal: dict[str, Any] = {**result["goal"][0], "measured_cost": 0.15, "judged": []}
    assert list(goal_lines(goal))[1].endswith(
        "cost 15.0%, which is more than 10.0%, so it is not judged"
    )
    assert "so it is not judged" in study_page({**result, "goal": [goal]}, with_plots=False)


def test_the_page(result: dict[str, Any]):
    page = study_page(result, with_plots=False)
    assert "<svg" not in page and "<script" not in page
    assert "runs/&lt;b&gt;topk" in page and "<b>topk" not in page and "&lt;i&gt;It" in page
    assert "cast@kl-0.3: its gate opens nowhere" in page
    warning = page.index("they may be offensive")
    assert page.rindex("<details>", 0, warning) > page.rindex("</details>", 0, warning)
    n = sum(one["how"] == "measured" for one in result["comparisons"])
    assert f"{n} comparisons, equal measured cost" in page
    assert page.count("at least 20% on every scorer: <strong>yes</strong>") == 2
    assert not re.search(r"\b(nan|None|inf)\b", page)


def test_a_page_of_the_unsteered_model_alone(result: dict[str, Any]):
    alone = compare_rows([made_row(NONE)], StudyConfig(out="study", run="run"))
    page = study_page({**result, **alone}, with_plots=True)
    assert "Is the autoencoder worth it" not in page and "<svg" not in page.partition("Fronts")[2]


@pytest.mark.slow
def test_fronts_and_sweeps(result: dict[str, Any]):
    fronts = list(study_fronts(result))
    assert len(fronts) == 3 * len(SCORERS)
    for drawing, caption in fronts:
        assert SAE.name in drawing.svg and "unsteered" in drawing.svg and "lower left" in caption
    sweeps = list(calibration_sweeps(result))
    assert len(sweeps) == len(COSTS)
    assert "random_direction" not in sweeps[0][0].svg and "cost (nats)" in sweeps[1][0].svg
    assert study_page(result).count("<svg") == len(fronts) + len(sweeps)


def test_the_page_replaces_its_own_alone(
    result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sparsteer.app.report.study_page.has_matplotlib", lambda: False)
    require_page_replaceable(tmp_path / PAGE_FILE)
    assert write_study_page(result) == tmp_path / PAGE_FILE
    require_page_replaceable(tmp_path / PAGE_FILE)
    (tmp_path / PAGE_FILE).write_text("mine")
    with pytest.raises(InputError, match="not of sparsteer's making"):
        require_page_replaceable(tmp_path / PAGE_FILE)


def test_the_terminal_shows_what_the_page_does(result: dict[str, Any]):
    from rich.console import Console

    written = io.StringIO()
    console = Console(width=80, file=written)
    for item in study_table(result):
        console.print(item)
    shown = written.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    for words in ("at a KL of 0.3 nats:", SAE.name, "unsteered", "cuts the score by"):
        assert words in shown


@pytest.mark.parametrize(
    ("cost", "shown"),
    [
        ("kl=0.3", "a KL of 0.3 nats"),
        ("kl_mean=0.1", "a mean KL of 0.1 nats"),
        ("perplexity=10%", "10% perplexity of neutral text"),
        ("repetition=5%", "5% repetition"),
        ("strength=1", "strength 1"),
        (None, "no strength"),
    ],
)
def test_costs_in_words(cost: str | None, shown: str):
    assert shown_cost(cost) == shown
