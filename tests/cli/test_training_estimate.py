"""`sparsteer train --dry-run`: what a run would take, and nothing written."""

from pathlib import Path
from typing import Any

import pytest

from .conftest import SITES, TRAIN_WORDS, Sparsteer


def test_it_says_what_the_run_then_takes(sparsteer: Sparsteer, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("train", "--cache", cache, "--out", out, "--site", SITES[0], *TRAIN_WORDS)
    words = (*words, "--checkpoint-every", 20)
    done = sparsteer(*words, "--dry-run", "--json")
    assert done.status == 0 and not out.exists()
    values = done.values
    assert (values["dry_run"], values["fits"], values["precision"]) == (True, True, "float32")
    assert (values["device"], values["gpu"], values["k"]) == ("cpu", None, 4)
    assert values["memory_bytes"] == sum(values["memory"].values())
    assert values["memory_bytes"] < values["host_bytes"]
    assert values["seconds_are"] == "measured" and values["seconds"] > 0
    trained = sparsteer(*words, "--json").values
    assert (values["steps"], values["n_latents"]) == (trained["steps"], trained["n_latents"])
    checkpoint = out / "checkpoints" / "step-20" / "trainer.safetensors"
    assert values["checkpoint_bytes"] == pytest.approx(checkpoint.stat().st_size, rel=0.15)


def test_for_a_gpu_that_is_not_here_it_is_predicted(
    sparsteer: Sparsteer, cache: Path, tmp_path: Path
) -> None:
    words = ("train", "--cache", cache, "--out", tmp_path / "run", "--site", SITES[0], *TRAIN_WORDS)
    words = (*words, "--dry-run", "--gpu")
    shown = sparsteer(*words, "h100")
    assert shown.status == 0
    assert "in bfloat16 on H100 SXM would take" in shown.out
    assert "at least, predicted: 40 steps" in shown.out and "ceilings, which no step" in shown.out
    large = sparsteer(*words, "t4", "--n-latents", 20_000_000, "--json")
    assert large.status == 1 and not large.values["fits"]
    assert (large.values["precision"], large.values["seconds_are"]) == ("float32", "predicted")
    assert large.values["memory"]["parameters"] == 4 * (2 * 32 * 20_000_000 + 20_000_000 + 32)
    assert large.values["memory_free"] == 16e9 < large.values["memory_bytes"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--gpu", "h100"], "--gpu is h100, but only a dry run is of a GPU by name"),
        (["--dry-run", "--gpu", "h1000"], "--gpu 'h1000' is not known here; perhaps you meant"),
        (["--dry-run", "--gpu", "t4", "--precision", "tf32"], "which T4 does not multiply"),
        (["--dry-run", "--precision", "tf32"], "--precision is tf32, which cpu does not have"),
        (["--dry-run", "--grid", "k=2,3"], "--grid is given, but a dry run is of one autoencoder"),
    ],
)
def test_what_is_refused(
    sparsteer: Sparsteer, cache: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    given = ("--cache", cache, "--out", tmp_path / "run", "--site", SITES[0], *TRAIN_WORDS)
    refused = sparsteer("train", *given, *words)
    assert refused.status == 2 and sentence in refused.error


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--batch-size", 100_000, "--tokens", 200_000], "training rows; lower"),
        (["--track", "wandb"], "WANDB_MODE is 'somehow'"),
        (["--k", 3], "holds a run with k=4, not 3"),
        (["--out", "other"], "other exists and is not a run"),
    ],
)
def test_what_training_refuses_is_refused(
    sparsteer: Sparsteer,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[Any],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "somehow")
    given = ("--cache", cache, "--out", "run", "--site", SITES[0], *TRAIN_WORDS)
    if "--k" in words:
        assert sparsteer("train", *given).status == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear reader")
    before = sorted(tmp_path.rglob("*"))
    dry = sparsteer("train", *given, *words, "--dry-run")
    assert sorted(tmp_path.rglob("*")) == before
    refused = sparsteer("train", *given, *words)
    assert dry.error == refused.error and sentence in dry.error
    assert dry.status == refused.status == 2


def test_shards_take_main_memory_for_the_whole_dictionary(
    sparsteer: Sparsteer, cache: Path, tmp_path: Path
) -> None:
    words = ("train", "--cache", cache, "--out", tmp_path / "run", "--site", SITES[0], *TRAIN_WORDS)
    words = (*words, "--n-latents", 2_000_000, "--dry-run", "--gpu", "h100", "--json")
    whole, cut = (sparsteer(*words, "--shards", shards).values for shards in (1, 2))
    assert cut["memory"]["parameters"] == pytest.approx(whole["memory"]["parameters"] / 2, rel=1e-3)
    # The state of all latents, of which a checkpoint is a copy.
    assert cut["host_bytes"] - whole["host_bytes"] == pytest.approx(
        cut["checkpoint_bytes"], rel=0.05
    )
    refused = sparsteer(*words, "--shards", 3)
    assert refused.status == 2 and "does not divide the 2000000 latents" in refused.error


def test_of_a_stream_nothing_is_written_either(
    sparsteer: Sparsteer, tiny_model_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    words = ("train", "--model", tiny_model_folder, "--dataset", corpus, "--context-length", 32)
    words = (*words, "--out", tmp_path / "run", "--site", SITES[0], *TRAIN_WORDS)
    done = sparsteer(*words, "--dry-run", "--json")
    assert done.status == 0 and done.values["seconds_are"] == "measured"
    refused = sparsteer(*words, "--dry-run", "--shards", 2)
    assert refused.status == 2
    assert "a stream of activations is for one process, and here are 2" in refused.error
    assert list(tmp_path.iterdir()) == []
