"""What doctor finds, and that each problem has its remedy."""

import importlib.metadata
import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sparsteer.cli import machine
from sparsteer.cli.machine import Problem
from sparsteer.kernels import processor
from sparsteer.sae.fetching.fetch import ARTIFACTS

from .conftest import Sparsteer


def answering(value: object) -> Callable[[str], object]:
    """A function of one name that gives the value, whatever the name."""
    return lambda name: value


def test_a_sound_machine(sparsteer: Sparsteer, cache_folder: Path) -> None:
    done = sparsteer("doctor", "--json")
    assert done.status == 0
    values = done.values
    assert values["ok"]
    assert values["packages"]["torch"] == torch.__version__
    assert values["devices"][0]["device"] == "cpu"
    assert all(device["training_step"] for device in values["devices"])
    assert values["threads"] == 1
    assert 0 < values["memory"]["free_bytes"] <= values["memory"]["total_bytes"]
    assert values["cache"] == {
        "path": str(cache_folder),
        "free_bytes": values["cache"]["free_bytes"],
    }
    assert values["fetched"] == dict.fromkeys(ARTIFACTS, False)
    assert values["triton"]["usable"] == torch.cuda.is_available()
    assert "network" not in values


@pytest.mark.parametrize(("fast", "library"), [(True, "oneDNN"), (False, "torch's default")])
def test_it_names_the_library_of_the_encoders_product(
    sparsteer: Sparsteer, monkeypatch: pytest.MonkeyPatch, fast: bool, library: str
) -> None:
    monkeypatch.setattr(processor, "onednn_is_faster", lambda: fast)
    assert f"runs, the encoder's product by {library}" in sparsteer("doctor").out
    assert sparsteer("doctor", "--json").values["devices"][0]["encoder_product"] == library


@pytest.mark.parametrize("fast", [True, False])
def test_it_says_whether_topk_is_screened(
    sparsteer: Sparsteer, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    monkeypatch.setattr(processor, "bfloat16_is_faster", lambda: fast)
    out = sparsteer("doctor").out
    assert ("top-k screened in bfloat16" in out) == fast
    path = "screened" if fast else "blocks"
    assert f"encode: {path} (" in out
    device = sparsteer("doctor", "--json").values["devices"][0]
    assert device["screening"] == fast
    assert device["plans"]["encode"]["path"] == path and device["plans"]["encode"]["why"]


def test_it_reads_well(sparsteer: Sparsteer, cache_folder: Path) -> None:
    done = sparsteer("doctor")
    assert f"torch {torch.__version__}" in done.out
    assert str(cache_folder) in done.out
    assert "not yet: smollm2-135m" in done.out
    assert "a training step runs" in done.out


@pytest.mark.parametrize(
    ("requirement", "what", "status"),
    [
        ("torch>=99", f"torch is {torch.__version__}, too old", 1),
        ("no-such-package>=1", "no-such-package is missing", 1),
        ("triton>=99", "triton is", 0),
        ("no-such-package; extra == 'dev'", "", 0),
        ("no-such-package; platform_system == 'Minix'", "", 0),
    ],
)
def test_missing_and_old_packages(
    sparsteer: Sparsteer,
    monkeypatch: pytest.MonkeyPatch,
    requirement: str,
    what: str,
    status: int,
) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", answering([requirement]))
    done = sparsteer("doctor", "--json")
    assert (done.status, done.values["ok"]) == (status, status == 0)
    found = [problem for problem in done.values["problems"] if problem["what"].startswith(what)]
    found = found if what else done.values["problems"]
    assert bool(found) == bool(what)
    for problem in found:
        assert problem["remedy"] == f'pip install "{requirement}"'


def test_optional_parts_that_are_not_there(
    sparsteer: Sparsteer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ["torch", "no-such-package; extra == 'plots'", "numpy; extra == 'eval'"]
    monkeypatch.setattr(importlib.metadata, "requires", answering(wanted))
    done = sparsteer("doctor")
    assert done.status == 0
    assert "without no-such-package: pip install 'sparsteer[plots]'" in done.out
    values = sparsteer("doctor", "--json").values
    assert (values["extras"]["plots"], values["extras"]["eval"]) == (["no-such-package"], [])
    assert values["packages"].keys() == {"torch"}


def test_a_broken_torch_is_said(sparsteer: Sparsteer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, x: object) -> None:
        raise RuntimeError("undefined symbol: cblas\nmore")

    monkeypatch.setattr("sparsteer.training.trainer.Trainer.step", broken)
    done = sparsteer("doctor")
    assert done.status == 1
    assert "training fails on cpu (undefined symbol: cblas): install torch again" in done.out
    assert "not usable before" in done.out
    assert done.err.startswith("error: training fails on cpu (undefined symbol: cblas): install")


def test_kernels_that_cannot_run_are_a_problem_with_their_own_remedy(
    sparsteer: Sparsteer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(tensor: torch.Tensor) -> bool:
        raise RuntimeError("Triton 1.0 is installed; install a Triton from 3.6")

    monkeypatch.setattr("sparsteer.kernels.dispatch.uses_triton", refuse)
    done = sparsteer("doctor")
    assert "cpu " in done.out
    assert "none kernels, a training step fails" in done.out
    assert "problem   Triton 1.0 is installed: install a Triton from 3.6" in done.out


def test_no_pip(sparsteer: Sparsteer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", answering(None))
    done = sparsteer("doctor", "--json")
    assert (done.status, done.values["pip"]) == (0, False)
    assert "-m ensurepip" in done.values["problems"][-1]["remedy"]


def test_a_cache_folder_that_cannot_be(
    sparsteer: Sparsteer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPARSTEER_CACHE", str(tmp_path / "file" / "cache"))
    done = sparsteer("doctor")
    assert done.status == 1
    assert "set SPARSTEER_CACHE to a folder that is" in done.out


def test_little_memory_and_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_meminfo", lambda: {"MemAvailable": 10**9})
    monkeypatch.setattr(machine, "_LEAST_DISK", 1e18)
    problems: list[Problem] = []
    assert machine.memory(problems)[1] == 10**9
    machine.cache_space(problems)
    assert [problem.what.split(" ")[:3] for problem in problems] == [
        ["only", "1.0", "GB"],
        ["only", problems[1].what.split(" ")[1], "GB"],
    ]
    assert not any(problem.essential for problem in problems)


def test_an_offline_hub_and_a_slow_index_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(command: list[str], *, timeout: int, **keywords: object) -> object:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(machine.subprocess, "run", slow)
    problems: list[Problem] = []
    assert machine.network(problems) == {"package_index": False, "hub": False}  # offline in tests
    assert [problem.what.split(" ")[-2:] for problem in problems] == [["not", "answer"]] * 2


def test_the_network_is_asked_only_on_demand(
    sparsteer: Sparsteer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(machine, "_index_answers", lambda: bool(asked.append("index")) or True)
    monkeypatch.setattr(machine, "_hub_answers", lambda: bool(asked.append("hub")))
    sparsteer("doctor")
    assert asked == []
    done = sparsteer("doctor", "--network", "--json")
    assert asked == ["index", "hub"]
    assert done.values["network"] == {"package_index": True, "hub": False}
    assert done.values["problems"][-1]["what"] == "the Hugging Face hub does not answer"
    assert done.status == 0
