"""The number of threads that the command takes, and that a run and a cache keep."""

import os
from pathlib import Path

import pytest
import torch

from sparsteer.sae.common.errors import InputError
from sparsteer.training.runtime import threads
from sparsteer.training.runtime.threads import allowed_cores, default_threads, use_threads


@pytest.mark.parametrize("asked", ["abc", "-1", "0", "1.5", " 2", "\u0663", "1025", "9" * 5000])
def test_what_is_no_number_of_threads_is_refused(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSTEER_THREADS", asked)
    with pytest.raises(InputError, match=r"SPARSTEER_THREADS is .* a whole number from 1 to 1024"):
        default_threads()


def test_a_number_overrides_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSTEER_THREADS", "37")
    assert default_threads() == 37
    monkeypatch.setenv("SPARSTEER_THREADS", "")
    assert default_threads() >= 1


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may use eight cores all the time, alone."""
    monkeypatch.delenv("SPARSTEER_THREADS", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(threads, "allowed_cores", lambda: 8)
    monkeypatch.setattr(threads, "_quota", lambda: None)


def test_the_cores_of_the_process_decide(
    eight_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert default_threads() == 8
    monkeypatch.setattr(threads, "_quota", lambda: 2.5)
    assert default_threads() == 2
    monkeypatch.setattr(threads, "_quota", lambda: 40.0)
    assert default_threads() == 8


def test_the_affinity_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    def affinity(process: int) -> set[int]:
        return {3}

    monkeypatch.delenv("SPARSTEER_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", affinity, raising=False)
    assert (allowed_cores(), default_threads()) == (1, 1)


def test_processes_share_the_cores_of_their_machine(
    eight_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert default_threads() == 8  # left over from elsewhere: torchrun sets the others as well
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.setenv(name, "1")
    assert default_threads() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "20")
    assert default_threads() == 1


def test_what_else_runs_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object) -> None:
        raise AssertionError("the machine's load is looked at")

    def limits_alone(path: Path) -> str:
        assert path.is_relative_to("/sys/fs/cgroup"), f"{path} is read"
        raise OSError

    monkeypatch.delenv("SPARSTEER_THREADS", raising=False)
    monkeypatch.setattr("time.sleep", refuse)
    monkeypatch.setattr(os, "getloadavg", refuse)
    monkeypatch.setattr(Path, "read_text", limits_alone)
    assert default_threads() == allowed_cores()


def test_the_number_is_what_it_was_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), use_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before
