"""A whole study of a tiny model: its rows, its folder, and what becomes of an interruption."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sparsteer.sae import LanguageModel
from sparsteer.sae.common.errors import InputError
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
    failed = [one["name"] for one in result["failed"]]
    assert sorted([*failed, *(row["name"] for row in result["rows"])]) == sorted(
        [
            *("none", "prompt", "sae-add-constant@kl-0.3", "mean_difference@kl-0.3"),
            *("random_direction-0@kl-0.3", "random_direction-1@kl-0.3"),
        ]
    )
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
