"""A bit that flips anywhere in what sparsteer wrote is found, or changes nothing."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from .conftest import SITES, TRAIN_WORDS, Sparsteer
from .flip_bits import Result, unnoticed_flips

SAMPLE = 1
"""Flips of each file in the quick tests; the slow one has more, of all files."""

SLOW = pytest.param(5, marks=pytest.mark.slow)


def results(sparsteer: Sparsteer, *commands: Sequence[object]) -> Result:
    """What the commands give together; the first that fails is the last."""
    values: list[object] = []
    for words in commands:
        done = sparsteer(*words)
        if done.status:
            return done.status, None, done.err
        values.append(done.out)
    return 0, values, ""


@pytest.fixture
def run(run_folder: Path, cache: Path, sparsteer: Sparsteer, tmp_path: Path) -> Path:
    """A finished run with picks and a feature index."""
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    assert sparsteer("pick", run, "add", 3, "--strength", 2.5).status == 0
    assert sparsteer("features", "build", run, "--cache", cache).status == 0
    return run


@pytest.mark.parametrize("places", [SAMPLE, SLOW])
def test_a_finished_run(sparsteer: Sparsteer, run: Path, tmp_path: Path, places: int) -> None:
    out = tmp_path / "exported"

    def read() -> Result:
        shutil.rmtree(out, ignore_errors=True)
        status, shown, said = results(
            sparsteer,
            ("features", "show", run, 3, "--json"),
            ("pick", run, "list", "--json"),
            ("export", run, "--out", out, "--json"),
        )
        exported = {path.name: path.read_bytes() for path in out.glob("*.*")}
        return status, (shown, exported), said

    names = ("sae/*", "features/*", "picks.json")
    total, found, unnoticed = unnoticed_flips(run, read, places=places, names=names)
    assert unnoticed == []
    assert total >= 20 * places and found >= 0.95 * total


@pytest.mark.slow
@pytest.mark.parametrize("places", [SAMPLE, SLOW])
def test_a_run_that_goes_on(sparsteer: Sparsteer, cache: Path, tmp_path: Path, places: int) -> None:
    run = tmp_path / "run"
    words = ("train", "--cache", cache, "--out", run, "--site", SITES[1], *TRAIN_WORDS)
    words = (*words, "--checkpoint-every", 10)
    assert sparsteer(*words).status == 0
    shutil.rmtree(run / "sae")
    newest = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name[5:]))
    shutil.rmtree(newest)

    def read() -> Result:
        done = sparsteer(*words)
        weights = run / "sae" / "sae.safetensors"
        return done.status, weights.read_bytes() if weights.exists() else None, done.err

    _, _, unnoticed = unnoticed_flips(run, read, places=places)
    assert unnoticed == []


@pytest.mark.slow
@pytest.mark.parametrize("steps_done", ["31", "1.5", "1" + 18 * "0"])
def test_a_checkpoint_that_names_another_step(
    sparsteer: Sparsteer, cache: Path, run_folder: Path, tmp_path: Path, steps_done: str
) -> None:
    run = tmp_path / "run"
    words = ("train", "--cache", cache, "--out", run, "--site", SITES[1], *TRAIN_WORDS)
    words = (*words, "--checkpoint-every", 10)
    assert sparsteer(*words).status == 0
    shutil.rmtree(run / "sae")
    shutil.rmtree(run / "checkpoints" / "step-40", ignore_errors=True)
    progress = run / "checkpoints" / "step-30" / "progress.json"
    values = json.loads(progress.read_text())
    assert values["steps_done"] == 30
    progress.write_text(f'{{"steps_done": {steps_done}, "seconds": 1.0}}')
    done = sparsteer(*words)
    assert done.status == 0 and "step-30 is broken and passed over" in done.err
    ours, whole = (f / "sae" / "sae.safetensors" for f in (run, run_folder))
    assert ours.read_bytes() == whole.read_bytes()
