"""Every activation through the whole chain: train, eval, features, generate, score."""

import dataclasses
import json
from pathlib import Path

import pytest

from sparsteer.sae import BatchTopKConfig, JumpReLUConfig, SparseAutoencoder, TopAFAConfig
from sparsteer.sae.config import SAEConfig
from sparsteer.steering.features import FeatureIndex

from .conftest import SITES, Sparsteer

ACTIVATIONS: dict[str, tuple[tuple[object, ...], SAEConfig]] = {
    "batch_topk": (("--k", 4), BatchTopKConfig(32, 48, 4)),
    "jumprelu": (("--target-l0", 4, "--bandwidth", 0.3), JumpReLUConfig(32, 48, 0.3)),
    "top_afa": (("--target-l0", 5), TopAFAConfig(32, 48, learned_scale=True)),
    "nested batch_topk": (
        ("--k", 4, "--prefixes", 0.25, 30),
        BatchTopKConfig(32, 48, 4, prefixes=(12, 30)),
    ),
    "nested top_afa": (("--prefixes", 12), TopAFAConfig(32, 48, prefixes=(12,))),
}
LIMITS = ("--n-latents", 48, "--tokens", 2000, "--batch-size", 50, "--site", SITES[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_whole_chain(sparsteer: Sparsteer, cache: Path, tmp_path: Path, name: str) -> None:
    words, config = ACTIVATIONS[name]
    run = tmp_path / "run"
    train = ("--cache", cache, "--out", run, "--activation", config.activation)
    trained = sparsteer("train", *train, *words, *LIMITS, "--json")
    assert trained.status == 0
    found = SparseAutoencoder.load(run).config
    if isinstance(found, TopAFAConfig) and found.learned_scale:
        assert found.target_scale == trained.values["target_scale"] != 1
        found = dataclasses.replace(found, target_scale=1.0)
    assert found == config
    assert json.loads((run / "sae" / "config.json").read_text())["activation"] == config.activation
    l0 = trained.values["held_out"]["l0"]
    assert l0 > 0 if name == "nested top_afa" else 2 < l0 < 8

    measured = sparsteer("eval", run, "--cache", cache, "--contexts", 3, "--json")
    assert measured.status == 0
    assert measured.values["fvu"] < 1 and measured.values["l0"] == pytest.approx(l0, rel=0.3)

    assert sparsteer("features", "build", run, "--cache", cache, "--examples", 3).status == 0
    number = int(FeatureIndex.of_run(run).statistics["fired"].argmax())
    prompt = ("--prompt", "abc def", "--tier", "per_token", "--max-new-tokens", 4)
    generated = sparsteer("generate", run, "--feature", number, *prompt, "--json")
    assert generated.status == 0

    pool, target = tmp_path / "pool.jsonl", tmp_path / "target.jsonl"
    texts = ["ab cd ef", "gh", "abc jihg abc", ""]
    pool.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    target.write_text(json.dumps({"text": "abc jihg"}) + "\n")
    score = ("--target", target, "--run", run, "--out", tmp_path / "scored.jsonl")
    scored = sparsteer("score", pool, *score, "--json")
    assert scored.status == 0
    assert 0 < scored.values["score"]["max"] <= 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--activation", "jumprelu", "--k", 4], "--k is 4, but jumprelu has none; leave it out"),
        (["--bandwidth", 0.1], "--bandwidth is 0.1, but topk has none; leave it out"),
        (["--activation", "jumprelu", "--bandwidth", 0], "bandwidth is 0.0"),
        (["--activation", "batch_topk", "--k", 49], "k is 49, but there are only 48 latents"),
        (["--prefixes", 20, 10], "prefixes are 20, 10, which do not rise below the 48 latents"),
        (["--prefixes", 48], "prefixes are 48, which do not rise below the 48 latents"),
        (["--prefixes", 2.5], "--prefixes has 2.5"),
        (["--activation", "jumprelu", "--target-l0", 0], "--target-l0 is 0"),
        (["--target-l0", 4], "--target-l0 is 4, but topk has none; leave it out"),
        (["--activation", "top_afa", "--target-l0", 49], "but there are only 48 latents"),
        (
            ["--activation", "top_afa", "--target-l0", 4, "--target-scale", 0.7],
            "with target_l0 4 training finds the scale; leave one of the two out",
        ),
        (["--activation", "jump_relu"], "perhaps you meant jumprelu"),
    ],
)
def test_wrong_input(
    sparsteer: Sparsteer, cache: Path, tmp_path: Path, words: list[object], sentence: str
) -> None:
    done = sparsteer("train", "--cache", cache, "--out", tmp_path / "run", *LIMITS, *words)
    assert done.status == 2
    assert sentence in done.error
    assert not (tmp_path / "run").exists()
