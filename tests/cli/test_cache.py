"""The verb cache on the tiny model: what it writes and says, and every wrong input."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae.language_model.sites import read_sites
from sparsteer.training.data import extraction
from sparsteer.training.data.cache.reader import ActivationCache

from .conftest import CACHE_WORDS, SITES, TRAIN_WORDS, Sparsteer


@pytest.fixture
def words(tiny_model_folder: Path, corpus: Path, tmp_path: Path) -> list[str]:
    """A right command, but for the rows."""
    flags = {"--model": tiny_model_folder, "--dataset": corpus, "--out": tmp_path / "cache"}
    return [str(word) for pair in flags.items() for word in pair] + list(CACHE_WORDS)


def test_it_writes_what_it_says(sparsteer: Sparsteer, words: list[str], tmp_path: Path) -> None:
    done = sparsteer("cache", *words, "--tokens", 3000, "--json")
    assert done.status == 0
    cache = ActivationCache(tmp_path / "cache")
    values = done.values
    assert values["rows"] == cache.n_rows == 3000
    assert values["sites"] == cache.sites == ["blocks.1.hook_resid_post"]
    assert values["held_out_rows"] == cache.n_held_out > 0
    assert values["excluded"] == cache.manifest.excluded
    assert values["bytes"] == sum(file.stat().st_size for file in cache.path.glob("shard-*"))
    assert done.err.splitlines()[-1].startswith("caching: 3,000 of 3,000 rows")


def test_it_reads_well_and_goes_on(sparsteer: Sparsteer, words: list[str], tmp_path: Path) -> None:
    done = sparsteer("cache", *words, "--tokens", 3000)
    assert "rows          3,000" in done.out
    assert f"next: sparsteer train --cache {tmp_path / 'cache'} --out RUN" in done.out
    again = sparsteer("cache", *words, "--tokens", 3000)
    assert "is complete (3,000 rows); nothing to do" in again.err
    assert again.out.splitlines()[:4] == done.out.splitlines()[:4]


def test_a_recipe_is_the_same_as_flags(
    sparsteer: Sparsteer, words: list[str], tmp_path: Path
) -> None:
    sites = "\n".join(f"- {site}" for site in SITES)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"tokens: 99999999\nseed: 3\nsite:\n{sites}\n")
    sparsteer("cache", *words, "--tokens", 800, "--config", recipe)
    cache = ActivationCache(tmp_path / "cache")
    assert (cache.n_rows, cache.sites) == (800, list(SITES))
    assert cache.manifest.config["seed"] == 3


def test_several_sites_may_be_repeated(cache: Path) -> None:
    assert ActivationCache(cache).sites == list(SITES)


def test_several_data_sets_with_weights(
    sparsteer: Sparsteer, words: list[str], corpus: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"text": f"number {n} " * 9}) + "\n" for n in range(60)))
    mixed = ["--dataset", f"{corpus}:3", other, "--tokens", 800]
    done = sparsteer("cache", *words, *mixed, "--json")
    assert done.status == 0
    assert done.values["dataset"] == f"{corpus}:3 {other}:1"
    manifest = ActivationCache(tmp_path / "cache").manifest
    assert manifest.config["dataset"] == f"{corpus}:3 {other}:1"
    assert manifest.corpus.parts == (str(corpus), str(other))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"dataset:\n- {corpus}:3\n- {other}\n")
    without = [word for word in words if word not in ("--dataset", str(corpus))]
    again = sparsteer("cache", *without, "--config", recipe, "--tokens", 800)
    assert "is complete (800 rows); nothing to do" in again.err
    heavier = sparsteer("cache", *words, "--dataset", f"{corpus}:4", other, "--tokens", 800)
    assert heavier.status == 2 and "holds a cache with dataset=" in heavier.error


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("a:0", "b"), "--dataset has a with a weight of 0; leave it out"),
        (("a:1", "b", "a"), "--dataset names a twice"),
        (("a:x", "b"), "--dataset gives a the weight 'x', but a weight is a number above 0"),
        (("no.jsonl:2", "news"), "no.jsonl is not there"),
    ],
)
def test_wrong_mixtures(
    sparsteer: Sparsteer, words: list[str], names: tuple[str, ...], sentence: str
) -> None:
    done = sparsteer("cache", *words, "--dataset", *names)
    assert done.status == 2
    assert sentence in done.error


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("--site", "blocks.1.hook_residpost", "blocks.1.hook_resid_post"),
        ("--model", "no/model/here", "no/model/here"),
        ("--dataset", "no.jsonl", "no.jsonl is not there"),
        ("--text-field", "txt", "there is no field 'txt'; its fields are text"),
        ("--context-length", "513", "at most 512 tokens"),
        ("--dtype", "float33", "perhaps you meant float32"),
        ("--tokens", "-3", "--tokens is -3, but must be a whole number of at least 1"),
        ("--held-out-fraction", "1", "--held-out-fraction is 1.0, but must be"),
    ],
)
def test_wrong_input(
    sparsteer: Sparsteer, words: list[str], flag: str, value: str, sentence: str
) -> None:
    done = sparsteer("cache", *words, flag, value)
    assert done.status == 2
    assert sentence in done.error


@pytest.mark.parametrize("text", ["", "\n\n", '{"text": ""}\n{"text": "  "}\n'])
def test_an_empty_corpus(sparsteer: Sparsteer, words: list[str], tmp_path: Path, text: str) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text(text)
    done = sparsteer("cache", *words, "--dataset", empty)
    assert done.status == 2
    assert str(empty) in done.error


def test_a_damaged_model(
    sparsteer: Sparsteer, words: list[str], tiny_model_folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny_model_folder.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    (model / "config.json").write_text("{")
    done = sparsteer("cache", *words, "--model", model)
    assert done.status == 2
    assert str(model) in done.error


def test_other_settings_in_the_same_folder(sparsteer: Sparsteer, words: list[str]) -> None:
    sparsteer("cache", *words, "--tokens", 600)
    done = sparsteer("cache", *words, "--tokens", 600, "--seed", 1)
    assert done.status == 2
    assert "seed" in done.error


def test_a_full_disk(
    sparsteer: Sparsteer, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparsteer.training.data.cache.writer.write_shard", full)
    done = sparsteer("cache", *words, "--tokens", 600)
    assert done.status == 1
    assert done.err.splitlines()[-1].startswith("error: no space left on the disk")


def test_the_corpus_ending_early_is_said(
    sparsteer: Sparsteer, words: list[str], tmp_path: Path
) -> None:
    short = tmp_path / "short.jsonl"
    short.write_text("".join(json.dumps({"text": f"a short text {n}"}) + "\n" for n in range(20)))
    done = sparsteer("cache", *words, "--dataset", short, "--json")
    assert done.status == 0
    (notice,) = (notice for notice in done.values["notices"] if "ended" in notice)
    assert notice in done.err


def test_an_empty_corpus_leaves_nothing_and_loads_nothing(
    sparsteer: Sparsteer, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "empty.jsonl").write_text('{"text": " "}\n')
    done = sparsteer("cache", *words, "--dataset", tmp_path / "empty.jsonl")
    assert "gives no activations: 1 document, 1 of them empty" in done.error
    assert "loading" not in done.err
    (tmp_path / "one-byte.jsonl").write_text('{"text": "a"}\n')
    done = sparsteer("cache", *words, "--dataset", tmp_path / "one-byte.jsonl")
    assert "gives no activations: 1 document, 0 of them empty" in done.error
    assert not (tmp_path / "cache").exists()


def test_a_dry_run_says_what_it_would_cost(
    sparsteer: Sparsteer, words: list[str], tmp_path: Path
) -> None:
    done = sparsteer("cache", *words, "--tokens", 3000, "--dry-run")
    assert done.status == 0
    for line in ("rows", "size", "time", "memory"):
        assert f"\n{line} " in done.out
    values = sparsteer("cache", *words, "--tokens", 3000, "--dry-run", "--json").values
    assert (values["rows"], values["fits"]) == (3000, True)
    assert not (tmp_path / "cache").exists()
    shown = sparsteer("cache", *words, "--tokens", 3000, "--dry-run", "--gpu", "l4")
    assert "at least on L4, predicted from its published ceilings" in shown.out
    refused = sparsteer("cache", *words, "--gpu", "l4")
    assert refused.error.startswith("--gpu is l4, but only a dry run is of a GPU by name")
    too_large = sparsteer("cache", *words, "--tokens", 10**15, "--dry-run")
    assert too_large.status == 1
    assert "error: it does not fit on that disk" in too_large.err


def test_info_says_what_a_cache_holds(sparsteer: Sparsteer, cache: Path, corpus: Path) -> None:
    manifest = ActivationCache(cache).manifest
    done = sparsteer("cache", "info", cache)
    assert done.status == 0
    for text in (*SITES, str(corpus), "complete", "5,000", manifest.fingerprint[:16]):
        assert text in done.out
    values = sparsteer("cache", "info", cache, "--json").values
    assert (values["rows"], values["complete"], values["dtype"]) == (5000, True, "float16")
    assert values["config"]["context_length"] == 32
    wrong = sparsteer("cache", "info", cache / "no")
    assert wrong.status == 2
    assert str(cache / "no") in wrong.error


def test_verify_names_a_shard_with_a_changed_byte(
    sparsteer: Sparsteer, cache: Path, tmp_path: Path
) -> None:
    assert sparsteer("cache", "verify", cache).status == 0
    copy = shutil.copytree(cache, tmp_path / "copy")
    shard = copy / "shard-00004.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1000] ^= 4
    shard.write_bytes(content)
    (copy / "shard-00001.safetensors").unlink()
    done = sparsteer("cache", "verify", copy)
    assert done.status == 1
    assert "error: 2 of " in done.err and done.err.endswith("or make them again\n")
    missing, changed = done.out.splitlines()
    assert "shard-00001.safetensors is missing" in missing
    assert f"the content of the shard {shard} has changed" in changed
    values = sparsteer("cache", "verify", copy, "--json").values
    assert (values["whole"], len(values["problems"])) == (False, 2)


def test_verbs_beside_cache(sparsteer: Sparsteer) -> None:
    shown = sparsteer("cache", "--help").out
    assert "--context-length" in shown
    assert "cache info" in shown and "cache verify" in shown
    mistyped = sparsteer("cache", "verfy", "folder")
    assert mistyped.status == 2
    assert mistyped.error.startswith("there is no verb 'cache verfy'; write cache info or cache")


def test_what_the_dtype_has_rounded_away_is_warned_of(
    sparsteer: Sparsteer, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `cache` at its end, and by `train` among its warnings."""

    def shifted(*args: Any) -> dict[str, Tensor]:
        return {
            name: acts + 300 * torch.eye(acts.shape[-1])[5]
            for name, acts in read_sites(*args).items()
        }

    monkeypatch.setattr(extraction, "read_sites", shifted)
    for dtype in ("int8", "float32"):
        out = tmp_path / dtype
        to = [word if word != str(tmp_path / "cache") else str(out) for word in words]
        cached = sparsteer("cache", *to, "--tokens", 1500, "--dtype", dtype, "--json")
        run = ("--cache", out, "--out", tmp_path / f"run-{dtype}", *TRAIN_WORDS, "--tokens", 200)
        trained = sparsteer("train", *run, "--json")
        assert (cached.status, trained.status) == (0, 0)
        for done in (cached, trained):
            found = [text for text in done.values["warnings"] if f"rounding to {dtype} is" in text]
            assert len(found) == (dtype == "int8"), done.values["warnings"]
            assert all(f"warning: {text}" in done.err for text in found)
        again = sparsteer("cache", *to, "--tokens", 1500, "--dtype", dtype, "--json")
        assert again.values["warnings"] == cached.values["warnings"]
