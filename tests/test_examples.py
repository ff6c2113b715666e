"""Every example runs, in a process of its own, and does what it says."""

import subprocess
import sys
from pathlib import Path

import pytest

from sparsteer.sae import SparseAutoencoder

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_has_a_test() -> None:
    tested = {"train_on_tensors.py", "recover_known_features.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


@pytest.mark.slow
def test_training_on_tensors_finds_the_planted_directions(tmp_path: Path) -> None:
    printed = run("train_on_tensors.py", "--out", "sae", "--steps", "300", cwd=tmp_path)
    fraction = int(printed.rsplit("found ", 1)[1].split("%")[0])
    assert fraction >= 80
    assert SparseAutoencoder.load(tmp_path / "sae").config.d_model == 32


@pytest.mark.slow
def test_known_features_are_recovered_best_near_the_right_k(tmp_path: Path) -> None:
    printed = run(
        "recover_known_features.py", "--k", "2", "6", "30", "--steps", "250", cwd=tmp_path
    )
    scores = {
        int(k): (float(fvu), float(f1))
        for k, fvu, _, f1, _ in map(str.split, printed.splitlines()[1:])
    }
    assert scores[2][0] > scores[6][0] > scores[30][0]  # reconstruction alone would choose 30
    assert scores[6][1] > max(scores[2][1], scores[30][1])
