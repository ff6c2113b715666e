"""The verb train on a cache of the tiny model."""

import json
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae import SparseAutoencoder, TopAFAConfig
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.non_finite import NonFiniteLoss
from sparsteer.training.trainer import Trainer

from .conftest import CACHE_WORDS, SITES, TRAIN_WORDS, Sparsteer


def test_it_trains_what_it_says(sparsteer: Sparsteer, cache: Path, tmp_path: Path) -> None:
    words = ("--cache", cache, "--out", tmp_path / "run", "--activation", "top_afa", "--n-latents")
    limits = ("--tokens", 2000, "--batch-size", 50, "--seed", 2, "--site", SITES[0])
    done = sparsteer("train", *words, 40, *limits, "--json")
    assert done.status == 0
    values = done.values
    assert (values["activation"], values["tokens"], values["steps"]) == ("top_afa", 2000, 40)
    sae = SparseAutoencoder.load(values["sae"])
    assert sae.config == TopAFAConfig(32, 40)
    assert sae.origin is not None
    assert sae.origin.site == SITES[0]
    assert "training: 2,000 of 2,000 rows" in done.err
    assert "L0 " in done.err


def test_it_reads_well_and_says_when_it_is_done(
    sparsteer: Sparsteer, cache: Path, run_folder: Path
) -> None:
    words = ("--cache", cache, "--out", run_folder, "--site", SITES[1], *TRAIN_WORDS)
    done = sparsteer("train", *words)
    assert "is complete; nothing to train" in done.err
    for word in ("FVU", "L0", "dead", "speed"):
        assert f"{word} " in done.out
    assert f"next: sparsteer eval {run_folder / 'sae'} --cache {cache}" in done.out


def test_held_out_figures_stay_in_sight(sparsteer: Sparsteer, cache: Path, tmp_path: Path) -> None:
    words = ("--cache", cache, "--out", tmp_path / "run", "--site", SITES[0], *TRAIN_WORDS)
    done = sparsteer("train", *words, "--eval-every", 20)
    assert ", held-out 0." in done.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], f"holds the sites {' and '.join(SITES)}"),
        (["--site", "blocks.1.hook_resid_pst"], SITES[1]),
        (["--site", SITES[0], "--batch-size", "5000", "--tokens", "9000"], "--batch-size is 5,000"),
        (["--site", SITES[0], "--n-latents", "3"], "there are only 3 latents"),
        (["--site", SITES[0], "--activation", "top_afa"], "--k is 4, but top_afa"),
        (["--site", SITES[0], "--tokens", "40"], "less than one batch of 50"),
        (["--site", SITES[0], "--lr", "nan"], "--lr is nan"),
        (["--site", SITES[0], "--lr", "0"], "--lr is 0"),
        (["--site", SITES[0], "--seed", "-1"], "--seed is -1"),
        (["--site", SITES[0], "--data-seed", "-1"], "--data-seed is -1"),
        (["--site", SITES[0], "--batch-size", "1"], "--batch-size is 1, but one row has no"),
        (["--site", SITES[0], "--eval-rows", "1"], "--eval-rows is 1, but one row has no"),
    ],
)
def test_wrong_input(
    sparsteer: Sparsteer, cache: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    done = sparsteer("train", "--cache", cache, "--out", tmp_path / "run", *TRAIN_WORDS, *words)
    assert done.status == 2
    assert sentence in done.error.replace(", ", " and " if not words else ", ")


def test_a_cache_without_held_out_rows_is_refused_before_training(
    sparsteer: Sparsteer, tiny_model_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    words = ("--model", tiny_model_folder, "--dataset", corpus, "--out", tmp_path / "cache")
    cached = sparsteer("cache", *words, *CACHE_WORDS, "--held-out-fraction", 0, "--tokens", 600)
    assert (cached.status, "next:" in cached.out) == (0, False)
    assert "`sparsteer train` will refuse it" in cached.err.splitlines()[-1]
    words = ("--cache", tmp_path / "cache", "--out", tmp_path / "run", *TRAIN_WORDS)
    done = sparsteer("train", *words)
    assert done.status == 2
    assert "has no held-out rows" in done.error
    assert "training:" not in done.err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def copied(cache: Path, tmp_path: Path) -> Path:
    """A copy of the cache, to be damaged."""
    return Path(shutil.copytree(cache, tmp_path / "copy"))


def test_a_missing_cache(sparsteer: Sparsteer, tmp_path: Path) -> None:
    done = sparsteer("train", "--cache", tmp_path / "no", "--out", tmp_path / "run")
    assert done.status == 2
    assert str(tmp_path / "no") in done.error


def test_a_truncated_shard(sparsteer: Sparsteer, copied: Path, tmp_path: Path) -> None:
    shard = copied / "shard-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-7])
    words = ("--out", tmp_path / "run", "--site", SITES[0], *TRAIN_WORDS)
    done = sparsteer("train", "--cache", copied, *words)
    assert done.status == 2
    assert str(shard) in done.error
    assert "again" in done.error


def test_a_changed_byte(sparsteer: Sparsteer, copied: Path, tmp_path: Path) -> None:
    shard = copied / "shard-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)
    words = ("--out", tmp_path / "run", "--site", SITES[0], *TRAIN_WORDS)
    done = sparsteer("train", "--cache", copied, *words)
    assert done.status == 2
    assert f"the content of the shard {shard} has changed" in done.error


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "other"}'])
def test_a_broken_manifest(sparsteer: Sparsteer, copied: Path, tmp_path: Path, text: str) -> None:
    (copied / "manifest.json").write_text(text)
    done = sparsteer("train", "--cache", copied, "--out", tmp_path / "run")
    assert done.status == 2
    assert str(copied / "manifest.json") in done.error


def test_another_run_in_the_same_folder(
    sparsteer: Sparsteer, cache: Path, run_folder: Path
) -> None:
    words = ("--cache", cache, "--out", run_folder, "--site", SITES[1], *TRAIN_WORDS)
    done = sparsteer("train", *words, "--seed", 9)
    assert done.status == 2
    assert "seed" in done.error


def test_a_loss_that_is_not_finite(
    sparsteer: Sparsteer, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverged(self: Trainer, x: object, **options: Any) -> object:
        raise NonFiniteLoss("the loss of step 0 is not finite")

    monkeypatch.setattr(Trainer, "step", diverged)
    words = ("--out", tmp_path / "run", "--site", SITES[0], *TRAIN_WORDS)
    done = sparsteer("train", "--cache", cache, *words)
    assert done.status == 1
    assert done.err.splitlines()[-1] == "error: the loss of step 0 is not finite"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_goes_on(
    sparsteer: Sparsteer,
    cache: Path,
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    step = Trainer.step

    def interrupted(self: Trainer, x: torch.Tensor, **options: Any) -> object:
        if self.steps_done == 25:
            signal.raise_signal(number)
        return step(self, x, **options)

    words = ("--cache", cache, "--out", tmp_path / "run", "--site", SITES[1], *TRAIN_WORDS)
    more = ("--checkpoint-every", 10)
    monkeypatch.setattr(Trainer, "step", interrupted)
    done = sparsteer("train", *words, *more)
    assert done.status == 1
    assert done.err.splitlines()[-1] == (
        "error: interrupted at step 26 of 40, which is saved; the same command goes on from there"
    )
    monkeypatch.setattr(Trainer, "step", step)
    done = sparsteer("train", *words, *more)
    assert done.status == 0
    assert "goes on from step 26" in done.err
    weights = (folder / "sae" / "sae.safetensors" for folder in (tmp_path / "run", run_folder))
    ours, uninterrupted = (file.read_bytes() for file in weights)
    assert ours == uninterrupted


@pytest.mark.slow
def test_the_command_sets_threads_and_a_run_keeps_them(
    sparsteer: Sparsteer, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    step = Trainer.step

    def interrupted(self: Trainer, x: torch.Tensor, **options: Any) -> object:
        used.append(torch.get_num_threads())
        if len(used) == 5:
            signal.raise_signal(signal.SIGTERM)
        return step(self, x, **options)

    monkeypatch.setattr(Trainer, "step", interrupted)
    monkeypatch.setattr("sparsteer.training.train.allowed_cores", lambda: 2)
    words = ("train", "--cache", cache, "--out", tmp_path / "run", "--site", SITES[1], *TRAIN_WORDS)
    before = torch.get_num_threads()
    for asked, status in (("2", 1), ("1", 0)):
        monkeypatch.setenv("SPARSTEER_THREADS", asked)
        assert sparsteer(*words).status == status
        assert torch.get_num_threads() == before
    assert (len(used), set(used)) == (40, {2})
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["threads"] == 2


def test_a_recipe_and_flags(sparsteer: Sparsteer, cache: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        f"cache: {cache}\nsite: {SITES[0]}\nn_latents: 33\nk: 3\ntokens: 500\nbatch-size: 50\n"
    )
    words = ("--config", recipe, "--out", tmp_path / "run", "--k", 5)
    summary = sparsteer("train", *words, "--json").values
    assert (summary["n_latents"], summary["k"], summary["tokens"]) == (33, 5, 500)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["summary"]["k"] == 5


@pytest.mark.slow
def test_a_grid_trains_each_as_alone_and_resumes(
    sparsteer: Sparsteer, cache: Path, run_folder: Path, tmp_path: Path
) -> None:
    words = ("--cache", cache, "--site", SITES[1], *TRAIN_WORDS[:2], *TRAIN_WORDS[4:])
    grid = ("--grid", "k=2,4", "activation=topk,top_afa", "--out", tmp_path / "grid")
    done = sparsteer("train", *words, *grid)
    assert done.status == 0
    names = ["k2-topk", "k4-topk", "top_afa"]
    assert sorted(path.name for path in (tmp_path / "grid").iterdir()) == names
    assert all(f"\n{name} " in done.out for name in names)
    assert f"next: sparsteer eval {tmp_path / 'grid'}/*/ --cache {cache}" in done.out
    weights = Path("sae", "sae.safetensors")
    assert (tmp_path / "grid/k4-topk" / weights).read_bytes() == (run_folder / weights).read_bytes()
    again = sparsteer("train", *words, *grid, "--json")
    assert again.err.count("is complete; nothing to train") == 3
    assert [run["activation"] for run in again.values["runs"]] == ["topk", "top_afa", "topk"]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("kk=3", "grid has no setting 'kk'; perhaps you meant k"),
        ("tokens=3,4", "grid has tokens, but its autoencoders share one reading"),
        ("k=3,x", "grid has k=x, but must have a whole number"),
        ("k=3,0", "grid, k0: k is 0, but must be"),
    ],
)
def test_a_wrong_grid(
    sparsteer: Sparsteer, cache: Path, tmp_path: Path, word: str, sentence: str
) -> None:
    words = ("--cache", cache, "--out", tmp_path / "grid", "--site", SITES[0])
    done = sparsteer("train", *words, "--grid", word)
    assert done.status == 2
    assert sentence in done.error
    assert not (tmp_path / "grid").exists()


@pytest.mark.slow
def test_without_a_cache_and_the_commands_that_follow(
    sparsteer: Sparsteer, tiny_model_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    source = ("--model", tiny_model_folder, "--dataset", corpus, "--held-out-fraction", "0.2")
    limits = ("--context-length", 32, "--chunk-rows", 500, "--eval-rows", 300)
    words = ("--out", tmp_path / "run", "--site", SITES[0], *TRAIN_WORDS)
    done = sparsteer("train", *source, *limits, *words)
    assert done.status == 0
    assert "training: 2,000 of 2,000 rows" in done.err
    cache, evaluation = (
        shlex.split(line.partition(": sparsteer ")[2].replace("CACHE", str(tmp_path / "cache")))
        for line in done.out.splitlines()[-2:]
    )
    assert sparsteer(*cache).status == 0
    written = ActivationCache(tmp_path / "cache")
    assert (written.sites, written.manifest.context_length) == ([SITES[0]], 32)
    assert 200 < written.n_held_out < 400
    assert sparsteer(*evaluation, "--contexts", 0).status == 0
    assert "is complete; nothing to train" in sparsteer("train", *source, *limits, *words).err


def test_a_cache_or_a_model_is_needed(sparsteer: Sparsteer, cache: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "run")
    assert sparsteer("train", *out).error.startswith("--cache is missing; give the folder of an")
    assert "--dataset is missing" in sparsteer("train", *out, "--model", "smollm2-135m").error
    both = sparsteer("train", *out, "--cache", cache, "--context-length", 64)
    assert "--context-length is 64, but the activations of" in both.error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_grid_of_sites(sparsteer: Sparsteer, cache: Path, tmp_path: Path) -> None:
    """Each has the activations of its site, and ends as if it were trained alone."""
    words = ("--cache", cache, *TRAIN_WORDS, "--eval-every", 20)
    grid = f"site={','.join(SITES)}"
    done = sparsteer("train", *words, "--out", tmp_path / "grid", "--grid", grid, "k=3,4")
    assert done.status == 0
    for site in SITES:
        alone = tmp_path / "alone" / site
        assert sparsteer("train", *words, "--out", alone, "--site", site).status == 0
        wanted, found = (
            (folder / "sae" / "sae.safetensors").read_bytes()
            for folder in (alone, tmp_path / "grid" / f"{site}-k4")
        )
        assert found == wanted
        sae = SparseAutoencoder.load(tmp_path / "grid" / f"{site}-k3")
        assert sae.origin is not None
        assert sae.origin.site == site
    held_out = [
        [line for line in map(json.loads, path.read_text().splitlines()) if "held_out" in line]
        for path in sorted(tmp_path.glob("grid/*-k4/metrics.jsonl"))
    ]
    assert held_out[0] != held_out[1]
    unknown = sparsteer("train", *words, "--out", tmp_path / "no", "--grid", "site=blocks.9")
    assert "has no site 'blocks.9'" in unknown.error


FURTHER = ("--warmup-fraction", 0, "--decay-fraction", 0, "--dead-after-tokens", 700, "--lr", 0.004)


@pytest.mark.slow
def test_a_run_is_trained_further_as_if_more_was_asked_for_at_first(
    sparsteer: Sparsteer, cache: Path, tmp_path: Path
) -> None:
    words = ("--cache", cache, "--site", SITES[1], *TRAIN_WORDS, *FURTHER, "--checkpoint-every", 9)
    said = ""
    for out, tokens in (("whole", 2000), ("longer", 1030), ("longer", 1530), ("longer", 2000)):
        done = sparsteer("train", *words, "--out", tmp_path / out, "--tokens", tokens, "--json")
        assert (done.status, done.values["tokens"]) == (0, tokens // 50 * 50)
        said = done.err
    assert "goes on from step 27" in said
    for name in ("sae/sae.safetensors", "checkpoints/step-36/trainer.safetensors"):
        whole, longer = ((tmp_path / out / name).read_bytes() for out in ("whole", "longer"))
        assert whole == longer, name
    whole, longer = (
        [
            {"step": line["step"]} if "summary" in line else line  # its seconds differ
            for line in map(json.loads, (tmp_path / out / "metrics.jsonl").read_text().splitlines())
        ]
        for out in ("whole", "longer")
    )
    assert whole == longer
    shorter = sparsteer("train", *words, "--out", tmp_path / "longer", "--tokens", 1000)
    assert "holds a run with tokens=2000, not 1000" in shorter.error
    assert (tmp_path / "longer" / "sae" / "sae.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        (("--warmup-fraction", 0.1), "warmup_fraction"),
        (("--decay-fraction", 0.1), "decay_fraction"),
        (("--k-start", 9), "k_start"),
    ],
)
def test_a_schedule_that_counts_from_the_total_is_not_trained_further(
    sparsteer: Sparsteer, cache: Path, tmp_path: Path, changes: tuple[object, ...], cause: str
) -> None:
    words = ("--cache", cache, "--site", SITES[1], "--out", tmp_path / "run", *TRAIN_WORDS)
    words = (*words, *FURTHER, *changes, "--tokens")
    assert sparsteer("train", *words, 200).status == 0
    done = sparsteer("train", *words, 400)
    assert (done.status, f"({cause} count from the total)" in done.error) == (2, True)
    assert "is complete; nothing to train" in sparsteer("train", *words, 200).err


@pytest.mark.slow
def test_a_result_worse_than_the_mean_is_warned_of(
    sparsteer: Sparsteer, cache: Path, tmp_path: Path
) -> None:
    words = ("--cache", cache, "--site", SITES[1], *TRAIN_WORDS)
    out = ("--out", tmp_path / "run")
    done = sparsteer("train", *words, *out, "--lr", 1, "--clip-norm", 0)
    assert done.status == 0
    for text in (done.out, done.err):
        last = text.splitlines()[-1]
        assert last.startswith("warning: the held-out FVU is ")
        assert "the learning rate may be too high" in last
    again = sparsteer("train", *words, *out, "--lr", 1, "--clip-norm", 0, "--json")
    (warning,) = again.values["warnings"]
    assert last == f"warning: {warning}"
    measured = sparsteer("eval", tmp_path / "run", "--cache", cache, "--contexts", 0)
    assert measured.err.splitlines()[-1] == f"warning: {tmp_path / 'run'}: {warning}"
    good = sparsteer("train", *words, "--out", tmp_path / "good", "--json")
    assert good.values["warnings"] == [] and "warning" not in good.err


def test_a_stream_has_one_site(
    sparsteer: Sparsteer, tiny_model_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    words = ("--model", tiny_model_folder, "--dataset", corpus, "--out", tmp_path / "g")
    done = sparsteer("train", *words, "--grid", f"site={','.join(SITES)}")
    assert "a stream is of one site" in done.error
    assert not (tmp_path / "g").exists()
