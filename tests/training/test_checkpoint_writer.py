"""Checkpoints that are written while training goes on: kills, full disks, and exact resume."""

import errno
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.training import checkpoint as checkpoint_module
from sparsteer.training import checkpoint_writer as writer_module
from sparsteer.training.checkpoint import restore_newest, trainer_state
from sparsteer.training.checkpoint_writer import CheckpointWriter
from sparsteer.training.loop import ProgressCallback
from sparsteer.training.train import train
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

from .test_train import Killed, assert_same_run, train_until
from .training_cases import config_of

WRITE = checkpoint_module.save_tensors
WAIT = 30


class Disk:
    """Stands in for the writing of tensors: that of some steps waits, fails or kills.

    Attributes:
        go_on: what a held write waits for.
        reached: set when one does.
    """

    def __init__(self, *, held: Collection[int] = (), full: Collection[int] = ()) -> None:
        self.go_on, self.reached = threading.Event(), threading.Event()
        self._held, self._full = held, full

    def write(self, path: Path, tensors: dict[str, Tensor]) -> None:
        step = int(path.parent.name.rpartition("-")[2])
        if step in self._held:
            self.reached.set()
            assert self.go_on.wait(WAIT)
        if step in self._full:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        WRITE(path, tensors)


def steps_into(done: list[int]) -> ProgressCallback:
    def report(step: int, total: int, figures: dict[str, float]) -> None:
        done.append(step)

    return report


def steps_saved(run: Path) -> set[str]:
    return {path.name for path in (run / "checkpoints").glob("step-*")}


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Disk]:
    def change(**options: Any) -> Disk:
        made = Disk(**options)
        monkeypatch.setattr(checkpoint_module, "save_tensors", made.write)
        return made

    return change


@pytest.fixture(scope="module")
def whole(planted_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that no accident befell."""
    run = tmp_path_factory.mktemp("checkpoints") / "whole"
    train(config_of(planted_cache, run))
    return run


@pytest.mark.parametrize("ends", ["killed", "whole"])
@pytest.mark.slow_except("killed")
def test_training_goes_on_while_a_checkpoint_is_written(
    planted_cache: Path, whole: Path, tmp_path: Path, disk: Callable[..., Disk], ends: str
) -> None:
    """The held write of step 8 ends after step 12, whose state must not be in it."""
    slow = disk(held={8})
    config = config_of(planted_cache, tmp_path / "run")
    seen: list[tuple[int, set[str]]] = []

    def report(done: int, total: int, figures: dict[str, float]) -> None:
        seen.append((done, steps_saved(tmp_path / "run")))
        if done == 12:
            assert slow.reached.wait(WAIT)
            slow.go_on.set()
            if ends == "killed":
                raise Killed

    if ends == "killed":
        with pytest.raises(Killed):
            train(config, report=report)
        assert steps_saved(tmp_path / "run") == {"step-8"}
    said: list[str] = []
    train(config, report=report if ends == "whole" else steps_into([]), say=said.append)
    assert (12, set()) in seen
    assert ends == "whole" or "goes on from step 8" in said[0]
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.slow
def test_the_next_checkpoint_waits_for_the_one_before(
    planted_cache: Path, tmp_path: Path, disk: Callable[..., Disk]
) -> None:
    slow = disk(held={8})
    done: list[int] = []
    config = config_of(planted_cache, tmp_path / "run", keep_checkpoints=9)
    thread = threading.Thread(target=train, args=(config,), kwargs={"report": steps_into(done)})
    thread.start()
    assert slow.reached.wait(WAIT)
    thread.join(0.3)
    assert max(done) <= 16, "step 16 is saved before it goes on"
    slow.go_on.set()
    thread.join(WAIT)
    assert max(done) == 40
    assert steps_saved(tmp_path / "run") == {f"step-{step}" for step in (8, 16, 24, 32)}


def killed_in_a_save(cache: Path, out: Path) -> None:
    """Train and die by kill -9 when half of step 16 is on the disk."""
    import os
    import signal

    def write(path: Path, tensors: dict[str, Tensor]) -> None:
        WRITE(path, tensors)
        if path.parent.name.endswith("step-16"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint_module.save_tensors = write
    train(config_of(cache, out))


def test_kill_9_in_the_middle_leaves_the_one_before_whole(
    planted_cache: Path, whole: Path, tmp_path: Path, in_processes: Callable[..., list[Any]]
) -> None:
    run = tmp_path / "run"
    assert in_processes(1, killed_in_a_save, planted_cache, run) == ["exit -9"]
    assert steps_saved(run) == {"step-8"}
    assert list((run / "checkpoints").glob(".tmp-*-step-16"))
    said: list[str] = []
    train(config_of(planted_cache, run), say=said.append)
    assert said == [f"{run} goes on from step 8"]
    assert not list((run / "checkpoints").glob(".tmp-*"))
    assert_same_run(whole, run)


@pytest.mark.parametrize(
    ("every", "kept"), [(8, {"step-8"}), (39, set[str]())], ids=["in the middle", "at the end"]
)
@pytest.mark.slow_except("in the middle")
def test_a_full_disk_is_told_and_leaves_the_one_before_whole(
    planted_cache: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    every: int,
    kept: set[str],
) -> None:
    config = config_of(planted_cache, tmp_path / "run", checkpoint_every=every)
    done: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "save_tensors", Disk(full={16, 39}).write)
        with pytest.raises(OSError, match="No space left"):
            train(config, report=steps_into(done))
    assert done[-1] in ((16, 20, 24) if every == 8 else (36, 40)), "told by the next save at last"
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == kept
    assert not (tmp_path / "run" / "sae").exists()
    train(config)
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.slow
def test_without_room_for_a_copy_training_waits(
    planted_cache: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(planted_cache, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "available_memory", lambda: 1000.0)
        train_until(config, 12)
        writer, trainer = CheckpointWriter(), Trainer(SparseAutoencoder(TopKConfig(4, 8, 2)))
        writer.save(tmp_path / "one", trainer, seconds=0.0, keep=1)
        assert (tmp_path / "one" / "step-0").exists(), "written before save returns"
    train(config)
    assert_same_run(whole, tmp_path / "run")


def test_an_error_is_raised_once_and_what_is_written_is_a_copy(
    tmp_path: Path, disk: Callable[..., Disk]
) -> None:
    slow = disk(held={1}, full={2})
    trainer = Trainer(SparseAutoencoder(TopKConfig(4, 8, 2), seed=1))
    writer = CheckpointWriter()
    before = {name: tensor.clone() for name, tensor in trainer_state(trainer).items()}
    trainer.steps_done = 1
    writer.save(tmp_path, trainer, seconds=2.5, keep=3)
    writer.raise_error()  # nothing is known yet
    trainer.steps_done = 2
    for tensor in trainer_state(trainer).values():
        tensor.detach().fill_(3)
    slow.go_on.set()
    writer.save(tmp_path, trainer, seconds=3.5, keep=3)
    with pytest.raises(OSError, match="No space left"):
        writer.wait()
    writer.wait()
    writer.close()
    other = Trainer(SparseAutoencoder(TopKConfig(4, 8, 2), seed=5))
    assert restore_newest(tmp_path, other, print) == 2.5
    assert other.steps_done == 1
    for name, tensor in trainer_state(other).items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_checkpoint_is_of_its_step_whatever_is_queued_behind(tmp_path: Path) -> None:
    config = TopKConfig(256, 4096, 16)
    settings = TrainerConfig(tokens=10_000, batch_size=100)
    trainer = Trainer(SparseAutoencoder(config, seed=1).to("cuda"), settings)
    writer = CheckpointWriter()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
        for step in (1, 2):
            trainer.steps_done = step
            torch.cuda._sleep(10_000_000)  # pyright: ignore - a kernel that takes long
            for tensor in trainer_state(trainer).values():
                tensor.detach().fill_(step)
            writer.save(tmp_path, trainer, seconds=0.0, keep=2)
            for tensor in trainer_state(trainer).values():
                tensor.detach().fill_(77)
    writer.wait()
    for step in (2, 1):
        other = Trainer(SparseAutoencoder(config), settings)
        restore_newest(tmp_path, other, print)
        assert other.steps_done == step
        assert all((tensor == step).all() for tensor in trainer_state(other).values())
        for path in (tmp_path / f"step-{step}").iterdir():
            path.unlink()
    writer.close()
