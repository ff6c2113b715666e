"""Saves, evaluations and lines by the clock: when they come, and that no step depends on them."""

from pathlib import Path
from typing import Any

import pytest

from sparsteer.sae import InputError
from sparsteer.training import intervals as intervals_module
from sparsteer.training import loop as loop_module
from sparsteer.training.distributed.collectives import Distributed
from sparsteer.training.intervals import Intervals
from sparsteer.training.run import RunFolder
from sparsteer.training.train import train
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import CLOCK_SETTINGS, TrainerConfig

from .test_train import metrics_of, train_until, weights
from .training_cases import config_of


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def settings_of(**changes: Any) -> TrainerConfig:
    return TrainerConfig(log_every=3, eval_every=4, checkpoint_every=6, **changes)


def turns(config: TrainerConfig, seconds: list[float], evaluation: float = 0.0) -> dict[str, Any]:
    """The steps after which each work is done, if they take so many seconds."""
    clock = Clock()
    intervals = Intervals(config, Distributed(), clock)
    found: dict[str, Any] = {"log": [], "evaluate": [], "save": []}
    for step, passed in enumerate(seconds, start=1):
        clock.now += passed
        for work in sorted(intervals.due(step)):
            found[work].append(step)
            clock.now += evaluation if work == "evaluate" else 0
            intervals.was_done(work)
    return found


def test_steps_decide_unless_a_time_is_given() -> None:
    found = turns(settings_of(), [1e6] * 12)
    assert found == {"log": [3, 6, 9, 12], "evaluate": [4, 8, 12], "save": [6, 12]}
    found = turns(settings_of(checkpoint_minutes=1.0), [25.0] * 12)
    assert found == {"log": [3, 6, 9, 12], "evaluate": [4, 8, 12], "save": [3, 6, 9, 12]}


def test_times_count_from_the_end_of_the_last_turn() -> None:
    config = settings_of(eval_minutes=1.0, log_seconds=45.0)
    assert turns(config, [20.0] * 9)["log"] == [3, 6, 9]
    assert turns(config, [20.0] * 9)["evaluate"] == [3, 6, 9]
    assert turns(config, [20.0] * 9, evaluation=500)["evaluate"] == [3, 6, 9]
    assert turns(config, [200.0, 1.0, 1.0, 70.0])["evaluate"] == [1, 4], "what was missed is missed"
    assert turns(settings_of(log_seconds=0.0), [0.0] * 3)["log"] == [1, 2, 3]


def test_the_clock_of_the_first_process_decides() -> None:
    class Second(Distributed):
        rank = 1

        def broadcast_object(self, value: Any) -> Any:
            asked.append(value)
            return {"save"}

    asked: list[Any] = []
    intervals = Intervals(settings_of(checkpoint_minutes=1.0), Second(), Clock())
    assert intervals.due(1) == {"save"} and asked == [set()]
    assert Intervals(settings_of(), Second(), Clock()).due(3) == {"log"} and len(asked) == 1


@pytest.mark.parametrize("name", CLOCK_SETTINGS)
@pytest.mark.parametrize("value", [-1.0, float("nan"), 1e7])
def test_a_time_that_is_none_is_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name} is {value}, but must be"):
        settings_of(**{name: value})


@pytest.fixture
def ten_seconds_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, step = Clock(), Trainer.step

    def stepped(trainer: Trainer, *rows: Any, **options: Any) -> Any:
        clock.now += 10
        return step(trainer, *rows, **options)

    def by_this_clock(config: TrainerConfig, dist: Distributed) -> Intervals:
        return intervals_module.Intervals(config, dist, clock)

    monkeypatch.setattr(Trainer, "step", stepped)
    monkeypatch.setattr(loop_module, "Intervals", by_this_clock)


@pytest.mark.usefixtures("ten_seconds_a_step")
def test_a_run_by_the_clock_resumes_exactly_with_other_times(
    planted_cache: Path, tmp_path: Path
) -> None:
    train(config_of(planted_cache, tmp_path / "whole", log_every=1))
    times = {"checkpoint_minutes": 1.5, "eval_minutes": 2.0, "log_seconds": 35.0}
    config = config_of(planted_cache, tmp_path / "run", keep_checkpoints=9, **times)
    train_until(config, 24)
    run = RunFolder(tmp_path / "run")
    assert [line["step"] for line in run.metrics() if "loss" in line] == [5, 10, 15, 20, 25]
    assert [line["step"] for line in run.metrics() if "held_out" in line] == [13]
    assert {path.name for path in run.checkpoints.iterdir()} == {"step-10", "step-20"}
    said: list[str] = []
    times = {"checkpoint_minutes": 3.0}
    train(
        config_of(planted_cache, run.path, keep_checkpoints=9, **times),
        say=said.append,
    )
    assert "goes on from step 20" in said[0]
    assert {path.name for path in run.checkpoints.iterdir()} == {"step-10", "step-20", "step-39"}
    found, wanted = weights(run.path), weights(tmp_path / "whole")
    assert all((found[name] == wanted[name]).all() for name in wanted)
    lines = {line["step"]: line for line in metrics_of(tmp_path / "whole") if "loss" in line}
    own = [line for line in metrics_of(run.path) if "loss" in line]
    assert own == [lines[line["step"]] for line in own] and len(own) > 8


@pytest.mark.usefixtures("ten_seconds_a_step")
@pytest.mark.slow
def test_a_run_too_short_for_a_checkpoint_by_the_clock_says_so(
    planted_cache: Path, tmp_path: Path
) -> None:
    settings = {"warmup_fraction": 0.0, "decay_fraction": 0.0, "dead_after_tokens": 700}
    settings |= {"checkpoint_minutes": 60.0}
    train(config_of(planted_cache, tmp_path / "run", tokens=20 * 128, **settings))
    with pytest.raises(InputError, match="or it ended before --checkpoint-minutes had passed"):
        train(config_of(planted_cache, tmp_path / "run", tokens=24 * 128, **settings))
