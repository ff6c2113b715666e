"""Killed in the middle, the same command ends as if it had never been."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import CACHE_WORDS, SITES, TRAIN_WORDS, Sparsteer

KILLED_AT_A_RENAME = """
import os, signal, sys
from sparsteer.cli.main import main
replace = os.replace
def replace_or_die(source, target):
    if os.path.basename(target) == "shard-00003.safetensors":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = replace_or_die
main(sys.argv[1:])
"""

KILLED_AT_A_STEP = """
import os, pathlib, signal, sys, time
from sparsteer.cli.main import main
from sparsteer.training.trainer import Trainer
step = Trainer.step
saved = pathlib.Path(sys.argv[sys.argv.index("--out") + 1], "checkpoints", "step-20")
def step_or_die(self, x, **options):
    if self.steps_done == 27:
        while not saved.exists():  # a thread writes it
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, x, **options)
Trainer.step = step_or_die
main(sys.argv[1:])
"""


def run_and_die(code: str, *words: object) -> None:
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder, hidden ones included, by name."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.mark.slow
def test_cache(
    sparsteer: Sparsteer, tiny_model_folder: Path, corpus: Path, cache: Path, tmp_path: Path
) -> None:
    words = ("cache", "--model", tiny_model_folder, "--dataset", corpus, "--out", tmp_path / "c")
    words = (*words, *CACHE_WORDS, "--tokens", 5000, "--site", *SITES)
    run_and_die(KILLED_AT_A_RENAME, *words)
    left = content(tmp_path / "c")
    assert "shard-00002.safetensors" in left
    assert "shard-00003.safetensors" not in left
    assert any(name.startswith(".tmp-") for name in left)
    done = sparsteer(*words)
    assert done.status == 0
    assert " goes on from " in done.err
    ours, uninterrupted = content(tmp_path / "c"), content(cache)
    assert ours == uninterrupted


@pytest.mark.slow
def test_train(sparsteer: Sparsteer, cache: Path, run_folder: Path, tmp_path: Path) -> None:
    words = ("train", "--cache", cache, "--out", tmp_path / "r", "--site", SITES[1], *TRAIN_WORDS)
    words = (*words, "--checkpoint-every", 10)
    run_and_die(KILLED_AT_A_STEP, *words)
    assert not (tmp_path / "r" / "sae").exists()
    done = sparsteer(*words)
    assert done.status == 0
    assert "goes on from step 20" in done.err
    assert content(tmp_path / "r" / "sae") == content(run_folder / "sae")


@pytest.mark.slow
def test_one_object_on_standard_output_of_a_process(
    tiny_model_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    """With real libraries and file descriptors, where anything printed would show."""
    words = ("--model", tiny_model_folder, "--dataset", corpus, "--out", tmp_path / "c")
    words = (*words, *CACHE_WORDS, "--tokens", 3000, "--json")
    command = [sys.executable, "-m", "sparsteer.cli", "cache", *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 3000
    said = done.stderr.splitlines()
    assert [line for line in said if not line.startswith(("loading", "caching"))] == []


def kill_loop(kills: int, folder: Path, *words: object) -> None:
    """Random kills, each followed by the same command; tests/cli/kill_loop.py says what is done."""
    script = Path(__file__).with_name("kill_loop.py")
    command = [sys.executable, script, "--kills", kills, "--folder", folder, "--", *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["kills"] == kills
    assert result["files"] > 2


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_every_verb_that_writes_killed_at_its_writes(
    tiny_model_folder: Path,
    corpus: Path,
    cache: Path,
    run_folder: Path,
    tmp_path: Path,
    kills: int,
) -> None:
    """Each with `kills` signals at calls that write: KILL, TERM, INT and HUP."""
    rows = [{"text": f"{n} and {'more ' * (n % 7)}", "sparsteer_score": n / 40} for n in range(40)]
    scored, bare = tmp_path / "scored.jsonl", tmp_path / "bare.jsonl"
    scored.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    bare.write_text("".join(f"{json.dumps({'text': row['text']})}\n" for row in rows))
    score = ("--target", bare, "--run", run_folder, "--part-rows", 10, "--out", "{}/out.jsonl")
    often = ("--checkpoint-every", 10, "--keep-checkpoints", 1)  # an interruption adds one
    train = ("train", "--cache", cache, "--site", SITES[1], *TRAIN_WORDS, *often)
    commands: dict[str, tuple[object, ...]] = {
        "export": ("export", run_folder, "--out", "{}/exported"),
        "pick": ("pick", "{}", "add", 5, "--label", "five"),
        "select": ("select", scored, "--ratio", 0.3, "--out", "{}/out.jsonl"),
        "score": ("score", bare, *score),
        "index": ("features", "build", "{}", "--cache", cache),
        "train": train,
    }
    if kills > 1:
        source = ("--model", tiny_model_folder, "--dataset", corpus)
        steps = ("--n-latents", 48, "--k", 4, "--batch-size", 64, "--tokens", 64 * 40)
        stream = (*source, "--site", SITES[1], "--context-length", 32, "--chunk-rows", 1000)
        commands |= {
            "eval": ("eval", "{}", "--cache", cache, "--plots"),
            "cache": ("cache", *source, *CACHE_WORDS, "--tokens", 3000),
            "grid": (*train, "--grid", "k=4,6"),
            "stream": ("train", *stream, *steps, *often),
        }
    starts = {name: str(run_folder) for name in ("pick", "index", "eval")}
    file = tmp_path / "commands.json"
    file.write_text(
        json.dumps(
            [
                {"name": name, "words": list(map(str, words)), "start": starts.get(name)}
                for name, words in commands.items()
            ]
        )
    )
    script = Path(__file__).with_name("kill_loop.py")
    options = ("--kills", kills, "--folder", tmp_path / "kills", "--writes", "--commands", file)
    command = [sys.executable, str(script), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, result in json.loads(done.stdout).items():
        assert result["kills"] == kills and result["files"] > 0, name


@pytest.mark.slow
def test_a_cache_killed_at_random(tiny_model_folder: Path, corpus: Path, tmp_path: Path) -> None:
    words = ("cache", "--model", tiny_model_folder, "--dataset", corpus, *CACHE_WORDS)
    kill_loop(50, tmp_path, *words, "--tokens", 20_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "tokens"), [(3, 20_000), pytest.param(50, 40_000, marks=pytest.mark.slow)]
)
def test_training_killed_at_random(cache: Path, tmp_path: Path, kills: int, tokens: int) -> None:
    words = ("train", "--cache", cache, "--site", SITES[1], *TRAIN_WORDS, "--tokens", tokens)
    often = ("--checkpoint-every", 40, "--eval-every", 100, "--log-every", 5)
    kill_loop(kills, tmp_path, *words, *often, "--grid", "k=4,6")


@pytest.mark.slow
def test_training_on_a_stream_killed_at_random(
    tiny_model_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    words = ("train", "--model", tiny_model_folder, "--dataset", corpus, "--site", SITES[1])
    limits = ("--context-length", 32, "--chunk-rows", 1000, "--checkpoint-every", 5)
    steps = ("--n-latents", 48, "--k", 4, "--batch-size", 64, "--tokens", 64 * 150)
    kill_loop(25, tmp_path, *words, *limits, *steps)
