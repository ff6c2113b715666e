"""Every example runs, in a process of its own, and does what it says."""

import subprocess
import sys
from pathlib import Path

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
    tested = {"train_on_tensors.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


def test_training_on_tensors_finds_the_planted_directions(tmp_path: Path) -> None:
    printed = run("train_on_tensors.py", "--out", "sae", "--steps", "300", cwd=tmp_path)
    share = int(printed.rsplit("found ", 1)[1].split("%")[0])
    assert share >= 80
    assert SparseAutoencoder.load(tmp_path / "sae").config.d_model == 32
