"""A stage of the demo: it runs once, and what it found is kept and reused."""

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ...sae.common.checksums import read_checked_json, write_checked_json
from ...sae.common.errors import InputError
from ...training.data.settings import to_plain
from ...training.runtime.stopping import StopRequest
from .config import DemoConfig

_NOT_IN_KEY = ("out", "run", "cache", "sae", "device")
"""Settings that say where something is or runs, not what comes out."""

_LATER: dict[str, Any] = {
    "allow_other_weights": False,
    "device_map": None,
    "loss_term": [],
    "setting": [],
}
"""Settings that came after stages had been kept, and their defaults."""

Update = Callable[[int, int, str], None]
"""Told about the progress of a stage: units done, units in all, and what else to show."""

Progress = Callable[[str, str], AbstractContextManager[Update]]
"""Opens a display of progress, given a title and the name of the unit."""

Result = dict[str, Any]
"""What a stage found, as plain JSON values."""


@contextmanager
def no_progress(title: str, unit: str) -> Generator[Update]:
    """Shows nothing."""
    del title, unit
    yield lambda done, total, more: None


@dataclass(frozen=True)
class StageResult:
    """What a stage of this run gave, and how long it took."""

    name: str
    title: str
    result: Result
    seconds: float
    """Seconds of this run."""
    reused: bool
    made_in: float
    """Seconds of the run that made the result: `seconds`, unless it was reused."""


@dataclass
class Demo:
    """A demo under way: its configuration, what it tells the user, and the results so far."""

    config: DemoConfig
    say: Callable[[str], None]
    progress: Progress
    stop: StopRequest
    stages: dict[str, StageResult] = field(default_factory=dict[str, StageResult])

    def result(self, stage: str) -> Result:
        """The result of an earlier stage."""
        return self.stages[stage].result


@dataclass(frozen=True)
class Stage:
    """One step of the demo."""

    name: str
    """As in `seconds` of the result."""
    title: str
    """What it does, in words."""
    run: Callable[[Demo], Result]
    """Does it, reusing what an interrupted run left."""
    key: Callable[[Demo], Result]
    """What the result depends on: it is reused while this stays the same."""
    is_there: Callable[[Demo], bool] = lambda demo: True
    """Whether the files that it made besides the result are still there."""
    is_needed: Callable[[DemoConfig], bool] = lambda config: True
    """Whether a demo of this configuration has it."""


def settings_of(config: Any) -> Result:
    """The settings of a configuration that decide a result; one of `_LATER` only where it is not
    its default, so that what was kept before there was one is still reused."""
    return {
        name: value if not isinstance(value, dict) else _decisive(cast(Result, value))
        for name, value in _decisive(to_plain(config)).items()
        if name not in _NOT_IN_KEY
    }


def _decisive(settings: Result) -> Result:
    return {
        name: value
        for name, value in settings.items()
        if name not in _LATER or value != _LATER[name]
    }


def run_stage(stage: Stage, demo: Demo) -> StageResult:
    """Run the stage, or take what it gave before if that depends on the same things."""
    started = time.perf_counter()
    file = demo.config.folder / "stages" / f"{stage.name}.json"
    key = stage.key(demo)
    kept = _kept(file)
    if kept is not None and kept["key"] == key and stage.is_there(demo):
        passed = time.perf_counter() - started
        return StageResult(
            stage.name, stage.title, kept["result"], passed, reused=True, made_in=kept["seconds"]
        )
    result = stage.run(demo)
    seconds = time.perf_counter() - started
    write_checked_json(file, {"key": key, "seconds": seconds, "result": result})
    return StageResult(stage.name, stage.title, result, seconds, reused=False, made_in=seconds)


def _kept(file: Path) -> dict[str, Any] | None:
    """The stored stage; None where there is none that can be read."""
    try:
        values = read_checked_json(file, "stage of the demo")
    except InputError:
        return None
    return values if values.keys() >= {"key", "seconds", "result"} else None
