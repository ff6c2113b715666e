"""A transcoder from the cache to its page, and the verbs that take it or refuse it."""

import json
from pathlib import Path

import pytest

from sparsteer.cli.main import main

from .conftest import CACHE_WORDS, TRAIN_WORDS, Sparsteer

READ, PREDICTED = SITES = ("blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out")


@pytest.fixture(scope="module")
def mlp_cache(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path, corpus: Path
) -> Path:
    """A cache of what an MLP reads and gives."""
    folder = tmp_path_factory.mktemp("caches") / "mlp"
    words = ["--model", str(tiny_model_folder), "--dataset", str(corpus), "--out", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSTEER_THREADS", "1")
        assert main(["cache", *words, *CACHE_WORDS, "--tokens", "3000", "--site", *SITES]) == 0
    return folder


@pytest.fixture(scope="module")
def transcoder(tmp_path_factory: pytest.TempPathFactory, mlp_cache: Path) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "transcoder"
    words = ["--cache", str(mlp_cache), "--out", str(folder), "--site", READ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSTEER_THREADS", "1")
        assert main(["train", *words, "--target-site", PREDICTED, *TRAIN_WORDS]) == 0
    return folder


def test_it_is_trained_again_in_words(
    sparsteer: Sparsteer, mlp_cache: Path, transcoder: Path
) -> None:
    words = ("--cache", mlp_cache, "--out", transcoder, "--site", READ, *TRAIN_WORDS)
    done = sparsteer("train", *words, "--target-site", PREDICTED)
    assert "is complete; nothing to train" in done.err
    assert "trained a topk transcoder of 48 latents" in done.out
    values = sparsteer("train", *words, "--target-site", PREDICTED, "--json").values
    assert values["target_site"] == PREDICTED
    origin = json.loads((transcoder / "sae" / "config.json").read_text())["origin"]
    assert (origin["site"], origin["target_site"]) == SITES


@pytest.mark.slow
def test_it_is_measured_where_it_predicts(
    sparsteer: Sparsteer, mlp_cache: Path, transcoder: Path
) -> None:
    words = ("eval", transcoder, "--cache", mlp_cache, "--contexts", 5)
    values = sparsteer(*words, "--json", "--plots").values
    losses = values["language_model"]
    assert (values["site"], values["target_site"]) == SITES
    assert 0 < losses["kl_with_sae"] < losses["kl_zero_ablated"] * 2
    done = sparsteer(*words)
    assert f"that reads {READ} and predicts {PREDICTED}, on" in done.out.replace("\n", " ")
    assert f"nats with the prediction at {PREDICTED}" in " ".join(done.out.split())
    page = (transcoder / "report.html").read_text()
    assert f"A topk transcoder of 48 latents that reads {READ} and predicts {PREDICTED}" in page


@pytest.mark.slow
def test_beside_an_autoencoder_it_is_said_where_each_stands(
    sparsteer: Sparsteer, mlp_cache: Path, transcoder: Path, tmp_path: Path
) -> None:
    """Their FVU is of other rows."""
    other = transcoder.parent / "autoencoder"
    words = ("--cache", mlp_cache, "--out", other, "--site", READ)
    assert sparsteer("train", *words, *TRAIN_WORDS).status == 0
    runs = (transcoder, other)
    done = sparsteer("eval", *runs, "--cache", mlp_cache, "--contexts", 0, "--plots")
    shown = " ".join(done.out.split())
    assert "only those that stand at the same place compare:" in shown
    assert f"autoencoder at {READ}" in shown
    page = (transcoder.parent / "report.html").read_text()
    assert "2 autoencoders and transcoders" in page and "that stands at the same place" in page
    alike = sparsteer("eval", other, other, "--cache", mlp_cache, "--contexts", 0)
    assert "the same place" not in alike.out


def test_one_that_predicts_backwards_is_measured_without_the_model(
    sparsteer: Sparsteer, mlp_cache: Path, tmp_path: Path
) -> None:
    words = ("--cache", mlp_cache, "--out", tmp_path / "run", "--site", PREDICTED)
    done = sparsteer("train", *words, "--target-site", READ, *TRAIN_WORDS)
    assert done.status == 0
    evaluated = sparsteer("eval", tmp_path / "run", "--cache", mlp_cache, "--contexts", 2)
    assert evaluated.status == 2
    assert f"{READ} comes before {PREDICTED} in the model" in evaluated.error
    alone = sparsteer("eval", tmp_path / "run", "--cache", mlp_cache, "--contexts", 0)
    assert alone.status == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--target-site", READ], f"--target-site is {READ}, the site that is read"),
        (["--target-site", "blocks.1.hook_mlpout"], PREDICTED),
        (["--target-site", PREDICTED, "--activation", "top_afa"], "--k is 4, but top_afa"),
        (["--target-site", PREDICTED, "--shards", "2"], "without target site"),
    ],
)
def test_wrong_input(
    sparsteer: Sparsteer, mlp_cache: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    where = ("--cache", mlp_cache, "--out", tmp_path / "run", "--site", READ)
    done = sparsteer("train", *where, *TRAIN_WORDS, *words)
    assert done.status == 2
    assert sentence in done.error
    assert not (tmp_path / "run").exists()


def test_its_features_are_found_but_do_not_steer(
    sparsteer: Sparsteer, mlp_cache: Path, transcoder: Path, tmp_path: Path
) -> None:
    built = sparsteer("features", "build", transcoder, "--cache", mlp_cache, "--json")
    assert built.status == 0
    assert built.values["site"] == READ
    steer = ("generate", transcoder, "--prompt", "abc", "--feature", 3)
    steered = sparsteer(*steer, "--max-activation", 1.0)
    assert steered.status == 2
    assert "a transcoder reads one site and writes another" in steered.error
    exported = sparsteer("export", transcoder, "--out", tmp_path / "out")
    assert exported.status == 2
    assert "SAELens has transcoders with ReLU and jumprelu, but none with topk" in exported.error
    assert not (tmp_path / "out").exists()
    assert (
        sparsteer("export", transcoder, "--out", tmp_path / "o", "--format", "sparsteer").status
        == 0
    )
