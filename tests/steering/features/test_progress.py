"""A build that is stopped goes on and ends as one that was not; another one begins anew."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparsteer.sae import LanguageModel
from sparsteer.steering.features import build_index, progress
from sparsteer.training.data.cache.reader import ActivationCache

from .conftest import Setup, contents, copied


class Stopped(Exception):
    """Raised in the middle of a pass."""


def build(setup: Setup, model: LanguageModel, stop_at: int | None = None, **changes: Any) -> str:
    """Build, or stop in the chunk of that row; gives what was said."""
    said: list[str] = []

    def report(done: int, total: int, _: object) -> None:
        if stop_at is not None and done >= stop_at:
            raise Stopped

    config = setup.config(logits=0, **changes)
    if stop_at is None:
        build_index(config, model=model, say=said.append, report=report)
    else:
        with pytest.raises(Stopped):
            build_index(config, model=model, say=said.append, report=report)
    return " ".join(said)


@pytest.fixture
def stopped(
    setup: Setup, tiny_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Setup, dict[str, bytes]]:
    """A run whose build was stopped in its third shard, and what the index should hold."""
    moved = copied(setup, tmp_path)
    build(moved, tiny_model)
    whole = contents(tmp_path / "features")
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    monkeypatch.setattr(progress, "TIMES", 0)
    rows = [entry.rows for entry in ActivationCache(setup.cache).manifest.shards]
    assert len(rows) > 4
    build(moved, tiny_model, stop_at=sum(rows[:3]))
    assert contents(tmp_path / "features") == whole, "the old index is there until the end"
    return moved, whole


def test_a_stopped_build_goes_on(
    stopped: tuple[Setup, dict[str, bytes]], tiny_model: LanguageModel
) -> None:
    setup, whole = stopped
    assert "going on behind 2 shards" in build(setup, tiny_model)
    assert contents(setup.run / "features") == whole
    assert sorted(path.name for path in setup.run.iterdir()) == ["features", "sae"]


@pytest.mark.slow
def test_a_build_that_is_stopped_again_and_again(
    stopped: tuple[Setup, dict[str, bytes]], tiny_model: LanguageModel
) -> None:
    setup, whole = stopped
    rows = [entry.rows for entry in ActivationCache(setup.cache).manifest.shards]
    for number in range(3, len(rows)):
        said = build(setup, tiny_model, stop_at=sum(rows[: number + 1]))
        assert f"going on behind {number - 1} shards" in said
    build(setup, tiny_model)
    assert contents(setup.run / "features") == whole


@pytest.mark.slow
def test_other_settings_begin_anew(
    stopped: tuple[Setup, dict[str, bytes]], tiny_model: LanguageModel
) -> None:
    setup, whole = stopped
    said = build(setup, tiny_model, seed=5)
    assert "other settings or another cache (seed); the pass begins anew" in said
    assert contents(setup.run / "features") != whole
    build(setup, tiny_model)
    assert contents(setup.run / "features") == whole


def test_a_damaged_state_begins_anew(
    stopped: tuple[Setup, dict[str, bytes]], tiny_model: LanguageModel
) -> None:
    setup, whole = stopped
    state = setup.run / ".features-partial" / "state" / "top_rows.npy"
    content = bytearray(state.read_bytes())
    content[-3] ^= 1
    state.write_bytes(content)
    said = build(setup, tiny_model)
    assert "top_rows.npy has changed since it was written" in said and "begins anew" in said
    assert contents(setup.run / "features") == whole


def test_a_build_that_fails_at_once_leaves_nothing(
    setup: Setup, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    moved = copied(setup, tmp_path)
    build(moved, tiny_model, stop_at=1)
    assert [path.name for path in tmp_path.iterdir()] == ["sae"]


_KILLED = """
import os, signal, sys
from sparsteer.steering.features import BuildConfig, build_index, progress
progress.SECONDS = progress.TIMES = 0
stop = int(sys.argv[1])
def report(done, total, figures):
    if 0 < stop <= done:
        os.kill(os.getpid(), signal.SIGKILL)
config = BuildConfig(run=sys.argv[2], cache=sys.argv[3], logits=0, examples=3, device="cpu")
build_index(config, report=report, say=print)
"""


@pytest.mark.slow
def test_a_killed_build_goes_on(setup: Setup, tmp_path: Path) -> None:
    run = copied(setup, tmp_path / "killed").run
    other = copied(setup, tmp_path / "other").run

    def start(run: Path, stop: int) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", _KILLED, str(stop), str(run), str(setup.cache)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(words, capture_output=True, text=True, env=environment)

    rows = [entry.rows for entry in ActivationCache(setup.cache).manifest.shards]
    for stop in (1, sum(rows[:2]), sum(rows[:4])):
        assert start(run, stop).returncode == -signal.SIGKILL
        assert not (run / "features").exists()
    done = start(run, 0)
    assert done.returncode == 0 and "going on behind 3 shards" in done.stdout, done.stderr
    assert start(other, 0).returncode == 0
    assert contents(run / "features") == contents(other / "features")
