"""wandb beside metrics.jsonl: offline without an account, continued by a resumed run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparsteer.sae import InputError
from sparsteer.sae.common.checksums import read_line
from sparsteer.training.config import TrainConfig
from sparsteer.training.run import RunFolder
from sparsteer.training.tracking import require_tracker
from sparsteer.training.train import train
from sparsteer.training.trainer_config import TrainerConfig

STOPPED_AND_RESUMED = """
import signal, sys
from sparsteer.cli.main import main
from sparsteer.training.trainer import Trainer
step = Trainer.step
def signalled(self, x, **options):
    signal.raise_signal(signal.SIGTERM)
    return step(self, x, **options)
Trainer.step = signalled
first = main(sys.argv[1:])
Trainer.step = step
sys.exit(10 * first + main(sys.argv[1:]))
"""


def config_of(cache: Path, out: Path, **changes: Any) -> TrainConfig:
    trainer = TrainerConfig(tokens=640, batch_size=64, log_every=5, eval_every=5)
    return TrainConfig(
        cache=str(cache), out=str(out), n_latents=40, k=3, trainer=trainer, **changes
    )


class Fake:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.closed = 0

    def log(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    def close(self) -> None:
        self.closed += 1


def test_the_tracker_gets_every_line(
    planted_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake()
    opened: list[tuple[object, Path, int]] = []

    def open_tracker(kind: object, run: Path, resolved: dict[str, Any]) -> Fake:
        opened.append((kind, run, resolved["n_latents"]))
        return fake

    monkeypatch.setattr("sparsteer.training.run.open_tracker", open_tracker)
    train(config_of(planted_cache, tmp_path / "run", track="wandb"))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert fake.lines == [read_line(line) for line in lines]
    assert (opened, fake.closed) == ([("wandb", tmp_path / "run", 40)], 1)


def test_tracking_does_not_decide_a_run(planted_cache: Path, tmp_path: Path) -> None:
    train(config_of(planted_cache, tmp_path / "run"))
    train(config_of(planted_cache, tmp_path / "run", track="wandb"))
    assert RunFolder(tmp_path / "run").is_complete()


def test_without_an_account_the_remedy_is_named_before_a_folder_is_made(
    planted_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(InputError, match="no API key here; run `wandb login`, or set WANDB_MODE"):
        train(config_of(planted_cache, tmp_path / "run", track="wandb"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_without_tracking_wandb_is_not_imported() -> None:
    code = """
import sys
import sparsteer.training.train
from sparsteer.training.tracking import require_tracker
require_tracker(None)
print("wandb" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.slow
def test_offline_a_run_and_its_resumption_are_one(
    planted_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, because wandb starts another that lives on."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    words = ["train", "--cache", str(planted_cache), "--out", str(run), "--track", "wandb"]
    words += ["--n-latents", "40", "--k", "3", "--tokens", "640", "--batch-size", "64"]
    command = [sys.executable, "-c", STOPPED_AND_RESUMED, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 10, done.stderr  # interrupted, then complete
    assert "wandb" not in done.stderr.lower()
    identity = json.loads((run / "tracking.json").read_text())["id"]
    folders = list((run / "wandb").glob("offline-run-*"))
    assert folders
    for folder in folders:
        assert folder.name.endswith(f"-{identity}")
        (record,) = folder.glob("*.wandb")
        assert record.stat().st_size > 1000


def test_an_unknown_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "junk")
    with pytest.raises(InputError, match=r"WANDB_MODE is 'junk', .* give online, offline or disab"):
        require_tracker("wandb")
    require_tracker(None)
