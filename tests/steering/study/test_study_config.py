"""Costs, settings and names of a study."""

from typing import Any

import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.steering.registries import STUDY_METHODS
from sparsteer.steering.study.arm import Arm, Cost, Setting
from sparsteer.steering.study.arms.choosing import chosen_arms
from sparsteer.steering.study.config import SMALL, StudyConfig


def config(**given: Any) -> StudyConfig:
    settings: dict[str, Any] = {"run": "run", "out": "out", **given}
    return StudyConfig(**settings)


@pytest.mark.parametrize(
    ("word", "kind", "target"),
    [
        ("kl=0.3", "kl", 0.3),
        ("perplexity=10%", "perplexity", 0.1),
        ("perplexity=0.1", "perplexity", 0.1),
        ("continuation_perplexity=25%", "continuation_perplexity", 0.25),
        ("strength=2e-1", "strength", 0.2),
    ],
)
def test_a_cost_is_read_and_its_name_reads_back(word: str, kind: str, target: float) -> None:
    cost = Cost.of(word)
    assert (cost.kind, cost.target) == (kind, pytest.approx(target))
    assert Cost.of(cost.name) == cost


@pytest.mark.parametrize("word", ["", "kl", "kl=", "kl=0", "kl=-1", "kl=1e", "dose=1", "kl=.3 "])
def test_what_is_no_cost_is_refused(word: str) -> None:
    with pytest.raises(InputError, match="cost is"):
        Cost.of(word)


def test_a_cost_with_more_digits_than_its_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"six digits .* write kl=0\.123457$"):
        Cost.of("kl=0.1234567")
    for word in ("kl=0.123456", "perplexity=0.123456", "perplexity=7%", "repetition=29%"):
        cost = Cost.of(word)
        assert Cost.of(cost.name) == cost


def test_settings_of_one_arm_have_names_of_their_own_that_are_files() -> None:
    arm = Arm(name="sae-add-constant", method="sae", family="sae")
    costs = [Cost.of(word) for word in ("kl=0.3", "kl=0.03", "perplexity=10%", "repetition=10%")]
    names = {Setting(arm=arm, cost=cost).name for cost in (None, *costs)}
    assert len(names) == 5
    assert not any(set(name) & set("/=% ") for name in names)


def test_small_sets_sizes_that_are_not_given() -> None:
    small = config(small=True, n_prompts=11)
    assert small.n_prompts == 11
    assert small.continuations == SMALL["continuations"]
    assert config().continuations == 25


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"run": None}, "run is missing"),
        ({"positive": "x"}, "positive is given without --negative"),
        ({"cost": ()}, "cost is empty"),
        ({"cost": ("kl=1", "kl=1")}, "more than once"),
        (
            {"cost": ("perplexity=10%", "perplexity=0.1")},
            "cost names perplexity=10% more than once",
        ),
        ({"methods": ("lineass",)}, "did you mean lineas"),
        ({"temperature": 0.0}, "temperature"),
        ({"group": "few"}, "group is 'few'"),
    ],
)
def test_wrong_settings_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config(**given)


def test_arms_are_unique_and_of_their_method() -> None:
    arms = chosen_arms(config(draws=3))
    assert arms[0].family == "none"
    assert len({arm.name for arm in arms}) == len(arms)
    assert {arm.method for arm in arms} == set(STUDY_METHODS.names())
    assert [arm.name for arm in arms if arm.edit == "ablate"] == ["sae-ablate-per_token"]
    assert [arm.draw for arm in arms if arm.method == "random_latent"] == [0, 1, 2]


def test_without_a_run_methods_of_features_are_left_out_unless_they_are_named() -> None:
    arms = chosen_arms(config(run=None, model="m"))
    assert not any(STUDY_METHODS.get(arm.method).needs_run for arm in arms)
    assert {"mean_difference", "random_direction", "prompt"} <= {arm.method for arm in arms}
    with pytest.raises(InputError, match="methods names sae,"):
        chosen_arms(config(run=None, model="m", methods=("sae",)))
