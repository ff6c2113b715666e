"""A whole study of a tiny model: its rows, its folder, and what becomes of an interruption."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparsteer.sae import LanguageModel
from sparsteer.sae.common.checksums import read_checked_json, write_checked_json
from sparsteer.sae.common.errors import InputError
from sparsteer.steering.errors import NotDefined
from sparsteer.steering.study import runner
from sparsteer.steering.study.arm import Arm
from sparsteer.steering.study.arms.method import ArmSteering
from sparsteer.steering.study.config import StudyConfig
from sparsteer.steering.study.context import StudyContext
from sparsteer.steering.study.runner import run_study

from .conftest import MakeConfig

FEW = ("sae", "mean_difference", "random_direction", "prompt")


class Stopped(Exception):
    """Stands for the process's end."""


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of every file, by its path; fits and studies know no clock."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes().replace(str(folder).encode(), b"OUT")
        for path in paths
        if not path.name.startswith(".lock")
    }


@pytest.mark.slow
def test_a_study_has_a_row_for_each_arm_and_cost(
    make_config: MakeConfig, tiny_model: LanguageModel
) -> None:
    config = make_config(methods=FEW, edits=("add",), tiers=("constant",))
    result = run_study(config, tiny_model)
    assert result["failed"] == []
    assert [row["name"] for row in result["rows"]] == [
        *("none", "sae-add-constant@kl-0.3", "mean_difference@kl-0.3"),
        *("random_direction-0@kl-0.3", "random_direction-1@kl-0.3", "prompt"),
    ]
    assert {"rows", "comparisons", "fronts", "goal"} <= set(result)
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["none"]["toxicity"].keys() == {"toxicity-ngrams"}
    assert rows["none"]["cost"] is None
    assert all(row["n"] == 2 for row in result["rows"])
    kept = json.loads((Path(config.out) / "result.json").read_text())
    assert kept["rows"] == result["rows"]
    assert result["sizes"]["prompts"] == 3
    calibration = result["calibration"]["mean_difference@kl-0.3"]
    assert rows["mean_difference@kl-0.3"]["strength"] == calibration["strength"]
    assert len(result["samples"]["none"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 4, 9])
def test_an_interrupted_study_becomes_the_same(
    make_config: MakeConfig,
    tiny_model: LanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int,
) -> None:
    def config(name: str) -> StudyConfig:
        return make_config(out=str(tmp_path / name), methods=("mean_difference", "prompt"))

    run_study(config("whole"), tiny_model)
    left = stop_after

    def stop(setting: str, done: int, total: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Stopped

    with pytest.raises(Stopped):
        run_study(config("cut"), tiny_model, progress=stop)
    run_study(config("cut"), tiny_model)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")

    def never(*words: object, **more: object) -> None:
        raise AssertionError("something was written that was there")

    monkeypatch.setattr("sparsteer.steering.study.writing.generate", never)
    run_study(config("cut"), tiny_model)


GROUPED = ("sae", "sae_group", "random_latent")
AT_ONE = {"edits": ("add",), "tiers": ("constant",), "draws": 1, "cost": ("strength=1",)}


@pytest.mark.slow
@pytest.mark.parametrize("sentence", ["looking for features", "choosing the strength", "measuring"])
def test_a_study_of_latents_is_stopped_at_each_kind_of_step_and_becomes_the_same(
    make_config: MakeConfig, tiny_model: LanguageModel, tmp_path: Path, sentence: str
) -> None:
    def config(name: str) -> StudyConfig:
        given = {**AT_ONE, "cost": ("kl=0.3",)}
        return make_config(out=str(tmp_path / name), methods=GROUPED, **given)

    whole = run_study(config("whole"), tiny_model)
    assert whole["failed"] == []
    n_heard = 0

    def stop(said: str) -> None:
        nonlocal n_heard
        n_heard += sentence in said
        if n_heard == (1 if sentence == "looking for features" else 3):
            raise Stopped

    with pytest.raises(Stopped):
        run_study(config("cut"), tiny_model, say=stop)
    run_study(config("cut"), tiny_model)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


@pytest.mark.slow
def test_methods_that_are_added_steer_as_if_all_were_asked_for_at_once(
    make_config: MakeConfig, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    def run(name: str, *methods: str) -> dict[str, Any]:
        config = make_config(out=str(tmp_path / name), methods=methods, **AT_ONE)
        return run_study(config, tiny_model)

    at_once = run("once", *GROUPED)
    run("later", "random_latent")
    run("later", "sae", "random_latent")
    later = run("later", *GROUPED)
    assert later["failed"] == [] and later["rows"] == at_once["rows"]
    assert content(tmp_path / "later") == content(tmp_path / "once")
    alone = run("later", "sae")
    assert [row["arm"] for row in alone["rows"]] == ["none", "sae-add-constant"]


def test_strengths_of_other_settings_are_no_part_of_the_result(
    make_config: MakeConfig, tiny_model: LanguageModel
) -> None:
    given = {"methods": ("mean_difference",), "most_evaluations": 1}
    run_study(make_config(cost=("kl=0.3", "kl=0.2"), **given), tiny_model)
    result = run_study(make_config(cost=("kl=0.2",), **given), tiny_model)
    assert list(result["calibration"]) == ["mean_difference@kl-0.2"]


def test_what_is_asked_is_read_before_anything_is_written(
    make_config: MakeConfig, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    long = tmp_path / "long.txt"
    long.write_text("Tell me more. " * 50)
    for requests, message in ((str(tmp_path / "no.txt"), "no.txt"), (str(long), "tokens")):
        with pytest.raises(InputError, match=message):
            run_study(make_config(methods=("prompt",), requests=requests), tiny_model)
    assert not (tmp_path / "out" / "continuations").exists()


@pytest.mark.slow
def test_problems_and_requests_are_asked_of_a_model_without_a_chat_template(
    make_config: MakeConfig, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    problems, requests = tmp_path / "sums.jsonl", tmp_path / "requests.txt"
    sums = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(3)]
    problems.write_text("\n".join(map(json.dumps, sums)))
    requests.write_text("How do I boil an egg?\nTell me a story.")
    config = make_config(
        methods=("prompt",), problems=(str(problems),), requests=str(requests), batch_size=4
    )
    none, _ = run_study(config, tiny_model)["rows"]
    assert none["capability"]["sums"]["questions"] == 2  # one stands before them
    assert none["capability"].keys() == {"colors", "sums"}
    assert 0 <= none["refusals"] <= 1


def test_a_broken_fit_ends_the_study_and_a_changed_one_is_refused(
    make_config: MakeConfig, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    config = make_config(methods=("mean_difference",), cost=("strength=1",))
    run_study(config, tiny_model)
    arms = tmp_path / "out" / "arms.json"
    kept = read_checked_json(arms, "arms")["arms"]
    write_checked_json(arms, {"arms": {**kept, "mean_difference": "0" * 64}})
    with pytest.raises(InputError, match="mean_difference does not steer as when"):
        run_study(config, tiny_model)
    write_checked_json(arms, {"arms": kept})
    (tmp_path / "out" / "fits" / "mean_difference" / "fit.json").write_text("{")
    with pytest.raises(InputError, match=r"fit\.json"):
        run_study(config, tiny_model)


def test_a_way_that_the_texts_do_not_define_is_left_out(
    make_config: MakeConfig, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def undefined(*words: object, **more: object) -> None:
        raise NotDefined("the sides are alike")

    monkeypatch.setattr(StudyContext, "fitted", undefined)
    result = run_study(make_config(methods=("mean_difference",)), tiny_model)
    assert result["failed"] == [{"name": "mean_difference", "why": "the sides are alike"}]


def test_methods_may_be_added_and_other_settings_are_refused(
    make_config: MakeConfig, tiny_model: LanguageModel
) -> None:
    first = run_study(make_config(methods=("prompt",)), tiny_model)
    more = run_study(make_config(methods=("prompt", "mean_difference")), tiny_model)
    assert len(more["rows"]) == len(first["rows"]) + 1
    assert more["rows"][0] == first["rows"][0]
    with pytest.raises(InputError, match=r"continuations is 3, but .* where it is 2; give another"):
        run_study(make_config(methods=("prompt",), continuations=3), tiny_model)


def test_an_arm_without_any_effect_is_left_out_with_its_reason(
    make_config: MakeConfig, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = runner.STUDY_METHODS.get("mean_difference")

    class Still:
        """The mean difference at strength 0, whatever the strength."""

        needs_run = False

        def arms(self, config: StudyConfig) -> list[Arm]:
            return [replace(arm, name="still", method="still") for arm in away.arms(config)]

        def steering(self, arm: Arm, study: StudyContext) -> ArmSteering:
            return ArmSteering(intervention=away.steering(arm, study).at(0.0))

    monkeypatch.setattr(runner.STUDY_METHODS, "_values", {"still": Still()})
    said: list[str] = []
    result = run_study(make_config(methods=("still",)), tiny_model, say=said.append)
    assert [row["name"] for row in result["rows"]] == ["none"]
    assert [one["name"] for one in result["failed"]] == ["still@kl-0.3"]
    assert any(sentence.startswith("left out: still@kl-0.3: no strength") for sentence in said)
