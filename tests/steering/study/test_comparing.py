"""Comparisons of a study's rows: planted effects are found, null ones are not, and what does not
compare is refused or left out."""

import copy
import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.steering.evaluation.statistics import compare, holm
from sparsteer.steering.study.arm import Cost
from sparsteer.steering.study.comparing import compare_rows
from sparsteer.steering.study.conditions import at_chosen_cost, at_measured_cost
from sparsteer.steering.study.config import StudyConfig
from sparsteer.steering.study.rows import read_rows

from .made_rows import GATED, MEAN, NONE, SAE, SCORERS, made_row, made_study, random_arms

CONFIG = StudyConfig(out="study", run="run")
ONE_COST = StudyConfig(out="study", run="run", cost=("perplexity=10%",))
KL = StudyConfig(out="study", run="run", cost=("kl=0.3",))
TEN = Cost.of("perplexity=10%")


def at(found: dict[str, Any], how: str, cost: str) -> dict[str, Any]:
    (goal,) = (one for one in found["goal"] if (one["how"], one["cost"]) == (how, cost))
    return goal


def chosen(found: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    return [one for one in found["comparisons"] if wanted.items() <= one.items()]


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return compare_rows(made_study(), CONFIG)


def test_a_planted_cut_is_found(found: dict[str, Any]):
    goal = at(found, "chosen", "perplexity=10%")
    assert goal["best"] == SAE.name and goal["judged"] == ["cut", "above_random"]
    assert goal["met"] == {"cut": True, "above_random": True, "beside_best": True}
    for scorer in SCORERS:
        one = goal["scorers"][scorer]
        assert one["cut"] == pytest.approx(0.4, abs=0.03)
        low, high = one["cut_interval"]
        assert low < one["cut"] < high
        assert one["cut_otherwise"] == pytest.approx(one["cut"], abs=0.02)
        random = one["random"]["random_direction"]
        assert random["standard_errors"] > 3 and random["standard_errors_otherwise"] > 3
        assert one["other"] == MEAN.name
        assert one["ratio"] == pytest.approx(0.75, abs=0.03)
    assert at(found, "chosen", "kl=0.3")["judged"] == ["beside_best"]


def test_what_does_nothing_does_not_meet_the_goal():
    rows = made_study(sae=1.0, other=0.8, random=1.0)
    goal = at(compare_rows(rows, ONE_COST), "chosen", "perplexity=10%")
    assert goal["met"] == {"cut": False, "above_random": False, "beside_best": False}


def test_comparisons_are_those_of_the_statistics(found: dict[str, Any]):
    rows = made_study()
    own = next(row for row in rows if row["name"] == f"{SAE.name}@perplexity-10pc")
    scorer = SCORERS[0]
    expected = compare(own["per_prompt"]["emt"][scorer], rows[0]["per_prompt"]["emt"][scorer])
    (one,) = chosen(
        found, how="chosen", cost=TEN.name, scorer=scorer, arm=SAE.name, relation="none"
    )
    assert (one["difference"], one["p_value"]) == (expected.difference, expected.p_value)
    assert one["relative"] == pytest.approx(one["own"] / one["other"] - 1)
    for how in ("chosen", "measured"):
        of_kind = chosen(found, how=how)
        assert [one["p_holm"] for one in of_kind] == holm([one["p_value"] for one in of_kind])


def test_each_way_meets_its_references(found: dict[str, Any]):
    relations = {
        arm: {(one["relation"], one["against"]) for one in chosen(found, arm=arm)}
        for arm in (SAE.name, MEAN.name, "prompt")
    }
    common = {("none", "none"), ("random", "random_direction")}
    assert relations[SAE.name] == common | {("best_other", MEAN.name)}
    assert relations[MEAN.name] == common
    assert relations["prompt"] == {("none", "none")}
    assert not any(one["arm"].startswith("random") for one in found["comparisons"])


def test_at_an_equal_measured_cost_all_are_where_it_is_that(found: dict[str, Any]):
    # 2.0 and 1.2 times a third of the cut, at rises of .108 and .06: at .10 in between.
    share = 1 - (0.108 - 0.10) / (0.108 - 0.06)
    strength = 1.2 + share * 0.8
    goal = at(found, "measured", "perplexity=10%")
    assert goal["level"] == pytest.approx(0.10)
    cut = goal["scorers"][SCORERS[0]]["cut"]
    assert cut == pytest.approx(0.4 * strength / 2, abs=0.03)


def test_one_that_stays_below_the_cost_sets_the_level_unless_it_is_far_below():
    rows = [
        made_row(NONE),
        made_row(SAE, 0.6, cost=TEN.name, costs=(0.08, 0.3)),
        made_row(GATED, 0.7, cost=TEN.name, costs=(0.01, 0.3)),
        made_row(MEAN, 0.8, cost=TEN.name, costs=(0.12, 0.3)),
    ]
    unsteered, others = read_rows(rows)
    measured = at_measured_cost(others, unsteered, TEN)
    assert measured is not None
    assert measured.level == pytest.approx(0.08)
    assert [one.name for one in measured.conditions] == [SAE.name, MEAN.name]
    assert measured.excluded == (GATED.name,)
    base, own = (np.array(row["per_prompt"]["emt"][SCORERS[0]]) for row in (rows[0], rows[3]))
    np.testing.assert_allclose(
        measured.conditions[1].maxima[SCORERS[0]], base / 3 + 2 * own / 3, rtol=1e-12
    )
    assert at_measured_cost(others, unsteered, Cost.of("strength=1")) is None


def test_rows_that_cost_more_than_the_budget_are_left_out():
    rows = [
        made_row(NONE),
        made_row(SAE, 0.6, cost=TEN.name, reached=False, dose=0.2),
        made_row(GATED, 0.7, cost=TEN.name, reached=False, dose=0.02),
    ]
    _, others = read_rows(rows)
    found = at_chosen_cost(others, TEN)
    assert [one.name for one in found.conditions] == [GATED.name]
    assert found.excluded == (SAE.name,)
    excluded = compare_rows(rows, ONE_COST)["excluded"]
    assert excluded[0] == {"how": "chosen", "cost": TEN.name, "arms": [SAE.name]}


def test_a_clamp_is_not_followed_from_the_unsteered_model():
    clamp = dataclasses.replace(SAE, name="sae-clamp-constant", edit="clamp")
    near = dataclasses.replace(clamp, name="sae-clamp-per_input")
    rows = [
        made_row(NONE),
        made_row(MEAN, 0.8, cost=TEN.name, costs=(0.12, 0.3)),
        *(
            made_row(arm, factor, cost=cost, costs=(rise, 0.3), strength=strength)
            for arm, least in ((clamp, 0.09), (near, 0.105))
            for cost, factor, rise, strength in (
                ("kl=0.3", 0.7, least, 0.5),
                (TEN.name, 0.5, 0.13, 1.0),
            )
        ),
    ]
    unsteered, others = read_rows(rows)

    def maxima(number: int) -> Any:
        return np.array(rows[number]["per_prompt"]["emt"][SCORERS[0]])

    measured = at_measured_cost(others, unsteered, TEN)
    assert measured is not None and measured.level == TEN.target
    by_name = {one.name: one.maxima[SCORERS[0]] for one in measured.conditions}
    np.testing.assert_allclose(by_name[clamp.name], 0.75 * maxima(2) + 0.25 * maxima(3))
    np.testing.assert_allclose(by_name[near.name], maxima(4))  # not quite so little
    small = at_measured_cost(others, unsteered, Cost.of("perplexity=5%"))
    assert small is not None
    assert [one.name for one in small.conditions] == [MEAN.name]
    assert small.excluded == (clamp.name, near.name)


def test_a_verdict_knows_what_the_best_way_did_cost():
    for rise, judged in ((0.105, ["cut", "above_random"]), (0.12, [])):
        rows = [
            made_row(NONE),
            made_row(SAE, 0.6, cost=TEN.name, costs=(rise, 0.3)),
            made_row(MEAN, 0.8, cost=TEN.name, costs=(0.08, 0.3)),
        ]
        goal = at(compare_rows(rows, ONE_COST), "chosen", TEN.name)
        assert goal["measured_cost"] == pytest.approx(rise)
        assert goal["scorers"][SCORERS[0]]["other_cost"] == pytest.approx(0.08)
        assert goal["judged"] == judged


def test_what_the_percentile_of_the_kl_does_not_see_is_said_and_compared_at_the_mean():
    kl, mean = Cost.of("kl=0.3"), Cost.of("kl_mean=0.1")
    rows = [
        made_row(NONE),
        made_row(SAE, 0.6, cost=kl.name, costs=(0.1, 0.3)),
        made_row(MEAN, 0.8, cost=kl.name, costs=(0.1, 0.3)),
        made_row(GATED, 0.5, cost=kl.name, costs=(0.1, 0.3), kl=0.4),
    ]
    (caution,) = (one for one in compare_rows(rows, KL)["cautions"] if "mean KL" in one)
    assert f"0.4 ({GATED.name})" in caution and "0.1 nats" in caution
    alike = compare_rows(rows[:3], KL)["cautions"]
    assert not any("mean KL" in one for one in alike)
    unsteered, others = read_rows(rows)
    measured = at_measured_cost(others, unsteered, mean)
    assert measured is not None
    own = {one.name: one.mean(SCORERS[0]) for one in measured.conditions}
    base = unsteered.maxima(SCORERS[0]).mean()
    assert own[GATED.name] == pytest.approx(
        0.75 * base + 0.25 * others[2].maxima(SCORERS[0]).mean()
    )
    goal = at(compare_rows(rows, dataclasses.replace(KL, cost=(mean.name,))), "measured", mean.name)
    assert goal["judged"] == ["beside_best"] and goal["level"] == pytest.approx(0.1)


@pytest.mark.slow
def test_the_order_of_rows_and_the_number_of_a_draw_change_nothing():
    rows = made_study(draws=2)
    one = compare_rows(rows, ONE_COST)
    two = compare_rows([*rows[::-1]], ONE_COST)
    assert at(one, "chosen", TEN.name)["best"] == at(two, "chosen", TEN.name)["best"]
    key = dict(how="chosen", arm=SAE.name, relation="none", scorer=SCORERS[1])
    assert chosen(one, **key)[0]["difference"] == chosen(two, **key)[0]["difference"]


def test_one_draw_has_no_spread():
    rows = [made_row(NONE), made_row(SAE, 0.5, cost=TEN.name)]
    rows += [made_row(arm, 0.9, cost=TEN.name) for arm in random_arms(1)]
    found = compare_rows(rows, ONE_COST)
    assert not chosen(found, relation="random")
    assert at(found, "chosen", TEN.name)["met"]["above_random"] is None
    assert any("only one draw" in caution for caution in found["cautions"])


def test_questions_that_are_answered_by_chance_are_named():
    known = {"accuracy": 0.26, "ci": [0.2, 0.3], "chance": 0.25}
    base = made_row(NONE, capability={"mmlu": known})
    assert any("no more than by chance" in one for one in compare_rows([base], CONFIG)["cautions"])
    better = made_row(NONE, capability={"mmlu": {**known, "ci": [0.3, 0.4]}})
    assert compare_rows([better], CONFIG)["cautions"] == []


def test_fronts_hold_what_no_other_point_beats(found: dict[str, Any]):
    assert {(one["axis"], one["scorer"]) for one in found["fronts"]} == {
        (axis, scorer) for axis in ("perplexity", "neutral_ratio", "kl") for scorer in SCORERS
    }
    front = found["fronts"][0]
    names = [(point["arm"], point["cost"]) for point in front["points"]]
    assert len(names) == len(set(names)) and ("random_direction", TEN.name) in names
    for point in front["points"]:
        beaten = any(
            other["x"] <= point["x"] and other["y"] <= point["y"]
            for other in front["points"]
            if other is not point
        )
        assert point["on_front"] is not beaten
    kl = next(one for one in found["fronts"] if one["axis"] == "kl")
    assert "prompt" not in {point["arm"] for point in kl["points"]}


def test_the_result_is_plain_json(found: dict[str, Any]):
    assert "per_prompt" not in found["rows"][0] and len(found["rows"]) == len(made_study())
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prompts_hash": "q"}, "differs from the unsteered one in prompts_hash"),
        ({"n": 3}, "differs from the unsteered one in n,"),
        ({"name": "none"}, "two rows have the name 'none'"),
        ({"family": "none"}, "2 rows are of the unsteered model"),
    ],
)
def test_rows_that_do_not_compare_are_refused(change: dict[str, Any], sentence: str):
    rows = [made_row(NONE), made_row(SAE, cost=TEN.name, **change)]
    with pytest.raises(InputError, match=sentence):
        compare_rows(rows, CONFIG)


def test_another_scorer_is_refused():
    rows = [made_row(NONE), made_row(SAE, cost=TEN.name)]
    other = copy.deepcopy(rows[1])
    other["per_prompt"]["emt"].pop(SCORERS[0])
    with pytest.raises(InputError, match="scorers"):
        compare_rows([rows[0], other], CONFIG)
