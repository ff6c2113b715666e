"""Ways to steer compared over widths, on scores that are made up."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsteer.steering.widths.comparing import RunStudy, compare_widths
from sparsteer.steering.widths.config import METHODS

SETTINGS: dict[str, Any] = {"tiers": ["constant"], "costs": ["kl=0.3"], "scorers": ["any"]}

Scores = dict[str, np.ndarray]
"""Of each way the scores [P, N]."""


def row(method: str, **given: Any) -> dict[str, Any]:
    values = {"name": method, "method": method, "tier": "constant", "cost": "kl=0.3"}
    return {**values, "reached": True, "dose": 0.3, **given}


class MadeUp:
    """Studies whose scores lie nowhere."""

    def __init__(self) -> None:
        self._scores: dict[Path, Scores] = {}

    def study(self, name: str, scores: Scores, **given: Any) -> RunStudy:
        self._scores[Path(name)] = scores
        return RunStudy(name, Path(name), [row(method, **given) for method in scores])

    def kept_scores(self, folder: Path, setting: str, scorer: str) -> np.ndarray:
        del scorer
        return self._scores[folder][setting]


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    found = MadeUp()
    monkeypatch.setattr("sparsteer.steering.widths.comparing.kept_scores", found.kept_scores)
    return found


def test_comparisons_pair_prompts_and_find_a_planted_difference(made_up: MadeUp) -> None:
    draw = np.random.default_rng(0)
    prompts_P1 = draw.random((60, 1)) * 0.5
    narrow = {method: prompts_P1 + 0.05 * draw.random((60, 3)) for method in METHODS}
    wide = {method: scores.copy() for method, scores in narrow.items()}
    # Split: the best latent alone does less in the wider one.
    wide["sae"] += 0.2 + 0.1 * (draw.random((60, 1)) - 0.5)
    studies = [made_up.study(name, scores) for name, scores in (("narrow", narrow), ("wide", wide))]
    found = compare_widths(studies, **SETTINGS)
    by = {(one["run"], one["method"], one["other_run"], one["other_method"]): one for one in found}
    assert len(by) == len(found) == 2 * 3 + 3
    split = by["wide", "sae", "narrow", "sae"]
    assert split["relation"] == "width" and split["difference"] == pytest.approx(0.2, abs=0.02)
    assert split["own"] - split["other"] == pytest.approx(split["difference"])
    assert split["standard_errors"] > 10
    assert split["p_holm"] < 0.01
    same = by["wide", "sae_group", "narrow", "sae_group"]
    assert same["difference"] == 0 and same["p_holm"] == 1
    grouped = by["wide", "sae_group", "wide", "sae"]
    assert grouped["relation"] == "method" and grouped["difference"] < -0.15
    # Holm: no adjusted value is below its own.
    assert all(one["p_holm"] >= one["p_value"] for one in found)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_widths_are_held_against_the_reference(made_up: MadeUp) -> None:
    draw = np.random.default_rng(2)
    studies = [
        made_up.study(name, {method: draw.random((5, 2)) for method in ways})
        for name, ways in (("empty", ()), ("narrow", METHODS), ("wide", METHODS))
    ]
    found = compare_widths(studies, **SETTINGS, reference="narrow")
    widths = [one for one in found if one["relation"] == "width"]
    assert [(one["run"], one["other_run"]) for one in widths] == [("wide", "narrow")] * 3
    # The first one has nothing to be held against.
    assert {one["relation"] for one in compare_widths(studies, **SETTINGS)} == {"method"}


def test_what_costs_more_than_it_may_is_not_compared(made_up: MadeUp) -> None:
    scores = {method: np.random.default_rng(1).random((9, 2)) for method in METHODS}
    over = made_up.study("over", scores, reached=False, dose=0.9)
    assert compare_widths([over], **SETTINGS) == []
    # A gate that hardly opens costs less, which is within what it may.
    below = made_up.study("below", scores, reached=False, dose=0.1)
    assert len(compare_widths([below], **SETTINGS)) == 3
    other: dict[str, Any] = {**SETTINGS, "tiers": ["per_token"]}
    assert compare_widths([below], **other) == []
