"""Many readers and writers at once, as `make bench-serve` has for two minutes, for ten seconds."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_many_at_once_get_right_answers_and_leave_nothing_behind(built_run: Path) -> None:
    words = [str(ROOT / "benchmarks" / "load_serve.py"), str(built_run), "--json"]
    done = subprocess.run(
        [sys.executable, *words, "--seconds", "10", "--readers", "60", "--writers", "20"],
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"SPARSTEER_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    values = json.loads(done.stdout)
    assert values["statuses"]["page 200"] > 60 and values["statuses"]["text 200"] > 20
    assert values["tokens"] > 100 and values["faults"] == []


def test_the_load_tells_what_should_not_have_been(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # pyright: ignore[reportUnknownMemberType] - untyped
    module: Any = importlib.import_module("load_serve")
    done = module.Load()
    done.memory += [1_000_000, 1_000_000]
    assert done.faults == ["nothing was answered"]
    done.statuses.update({"page 200": 5, "text 200": 5, "text 429": 3})
    assert done.faults == []
    done.statuses.update({"page 500": 1, "text 200": 1, "text cut off": 2})
    done.memory.append(1_000_000 + int(module.MOST_GROWTH) + 1)
    assert done.faults == ["page 500: 1", "text cut off: 2", "the server grew by 50 MB"]
