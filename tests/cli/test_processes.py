"""The command under torchrun: one voice, one error, and a signal that stops all."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import SITES, TRAIN_WORDS, Sparsteer

ENVIRONMENT = os.environ | {"SPARSTEER_THREADS": "1", "OMP_NUM_THREADS": "1"}


def torchrun(*words: object, processes: int = 2) -> "subprocess.Popen[str]":
    run = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    run = (*run, "--nproc-per-node", str(processes))
    return subprocess.Popen(
        [*run, "-m", "sparsteer.cli", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


@pytest.mark.slow
def test_two_processes_speak_with_one_voice(cache: Path, run_folder: Path, tmp_path: Path) -> None:
    words = ("--cache", cache, "--site", SITES[1], *TRAIN_WORDS)
    with torchrun("train", *words, "--out", tmp_path / "two", "--json") as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    summary = json.loads(out)  # a second object would be an error
    assert err.count("training: 2,000 of 2,000 rows") == 1
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    alone = lines[-1]["summary"]["held_out"]
    assert summary["held_out"]["fvu"] == pytest.approx(alone["fvu"], rel=1e-4)


@pytest.mark.slow
def test_wrong_input_is_one_sentence(cache: Path, tmp_path: Path) -> None:
    with torchrun("train", "--cache", tmp_path / "none", "--out", tmp_path / "two") as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 1 and out == ""
    assert len(errors(err)) == 1 and "no activation cache at" in errors(err)[0]


@pytest.mark.slow
def test_two_groups_of_two_shards(cache: Path, sparsteer: Sparsteer, tmp_path: Path) -> None:
    words = ("train", "--cache", cache, "--site", SITES[1], *TRAIN_WORDS[:-1], 48)
    alone = sparsteer(*words, "--out", tmp_path / "one", "--json").values
    with torchrun(
        *words, "--out", tmp_path / "four", "--shards", 2, "--json", processes=4
    ) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    fvu = json.loads(out)["held_out"]["fvu"]
    assert fvu == pytest.approx(alone["held_out"]["fvu"], rel=1e-5)


@pytest.mark.slow
def test_sigterm_and_the_same_command(cache: Path, tmp_path: Path) -> None:
    words: tuple[object, ...] = ("train", "--cache", cache, "--site", SITES[1], *TRAIN_WORDS[:4])
    words = (*words, "--tokens", 20_000, "--batch-size", 20, "--log-every", 1)
    with torchrun(*words, "--out", tmp_path / "two") as process:
        metrics = tmp_path / "two" / "metrics.jsonl"
        deadline = time.monotonic() + 300
        while not (metrics.exists() and metrics.stat().st_size > 5000):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert len(errors(err)) == 1 and "which is saved" in errors(err)[0]
    with torchrun(*words, "--out", tmp_path / "two") as process:
        _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert err.count("goes on from step") == 1
    with torchrun(*words, "--out", tmp_path / "whole") as process:
        process.communicate(timeout=200)
    weights = "sae/sae.safetensors"
    assert (tmp_path / "two" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
