"""The activation and the loss term of docs/extending.md, taken from the page and used from outside
the package: in Python, and by command through an installed package's entry points."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.cli.main import main
from sparsteer.sae import (
    InputError,
    SparseAutoencoder,
    TopKConfig,
    register_activation,
    register_loss_term,
)
from sparsteer.sae.activations.registry import ACTIVATIONS
from sparsteer.sae.loss_registry import LOSS_TERMS
from sparsteer.sae.losses import WeightedTerm
from sparsteer.training.config import TrainConfig
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

from .toy_package import code_of, install


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The page's names, registered in this process for one test."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for section in ("An activation", "A loss term"):
        exec(code_of(section), names)
    for registry in (ACTIVATIONS, LOSS_TERMS):
        monkeypatch.setattr(registry, "_values", {})
    register_activation(names["AboveMean"])
    register_loss_term("l1", names["l1"])
    yield names


def test_both_train_in_python(registered: dict[str, Any]) -> None:
    config = registered["AboveMeanConfig"](8, 40, factor=3.0)
    settings = TrainerConfig(batch_size=64, tokens=64 * 30, lr=3e-3, loss_term=("l1=0.01",))
    trainer = Trainer(SparseAutoencoder(config), settings)
    x = torch.randn(64, 8) + 3
    figures = [trainer.step(x).figures() for _ in range(30)]
    assert figures[-1]["loss"] < figures[0]["loss"] and figures[-1]["l1"] < figures[0]["l1"]
    one = trainer.loss(trainer.sae.scaled(x))
    values = trainer.sae.encode_train(trainer.sae.scaled(x)).values
    torch.testing.assert_close(one.terms["l1"], values.sum(-1).mean())
    torch.testing.assert_close(one.total, one.mse + 0.01 * one.terms["l1"])
    pre_BF = trainer.sae.scaled(x) @ trainer.sae.W_enc.T
    pre_BF = pre_BF - trainer.sae.b_dec @ trainer.sae.W_enc.T + trainer.sae.b_enc
    above_BF = pre_BF.relu() > 3 * pre_BF.relu().mean(-1, keepdim=True)
    assert torch.equal(trainer.sae.encode(x).dense(40) > 0, above_BF) and above_BF.any()


def test_it_trains_in_bfloat16_and_nested(registered: dict[str, Any]) -> None:
    config = registered["AboveMeanConfig"](8, 40, prefixes=(10,))
    settings = TrainerConfig(precision="bfloat16", loss_term=("l1=0.01",))
    trainer = Trainer(SparseAutoencoder(config), settings)
    figures = [trainer.step(torch.randn(64, 8)).figures() for _ in range(3)]
    assert all(torch.tensor([*one.values()]).isfinite().all() for one in figures)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "above_maen"}, "activation is 'above_maen'; did you mean above_mean?"),
        ({"k": 4}, "k is 4, but above_mean has none; leave it out, or choose activation topk"),
        ({"setting": ("facto=3",)}, "above_mean has no 'facto'; did you mean factor?"),
        ({"setting": ("factor",)}, "is 'factor'; write factor=VALUE"),
        ({"setting": ("factor=x",)}, "factor must be a number"),
        ({"setting": ("factor=1", "factor=2")}, "has factor twice"),
        ({"activation": "topk", "setting": ("k=3",)}, "topk has no 'k'; there are: none"),
    ],
)
def test_wrong_activations_are_named(
    registered: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    values: dict[str, Any] = {"cache": "c", "out": "o", "activation": "above_mean"}
    with pytest.raises(InputError, match=re.escape(message)):
        TrainConfig(**(values | changes)).sae_config(8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("l2=1",), "loss_term is 'l2=1', but this installation has no 'l2'; did you mean l1?"),
        (("l1",), "loss_term is 'l1'; write l1=VALUE"),
        (("l1=-1",), "loss_term l1 is -1.0, but must be between 0 and 1e+06"),
        (("l1=nan",), "loss_term l1 is nan"),
    ],
)
def test_wrong_loss_terms_are_named(
    registered: dict[str, Any], words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        TrainerConfig(loss_term=words)
    assert caught.value.field == "loss_term"


@pytest.mark.usefixtures("without_type_checks")
def test_a_single_text_is_no_tuple_of_terms() -> None:
    wrong: Any = "l1=0.1"
    with pytest.raises(InputError, match=r"loss_term is the text 'l1=0.1'; give a tuple"):
        TrainerConfig(loss_term=wrong)


@pytest.mark.parametrize("name", ["fvu", "summary", "held_out", "crc32"])
def test_a_term_with_the_name_of_another_figure_is_refused(
    registered: dict[str, Any], name: str
) -> None:
    register_loss_term(name, registered["l1"])
    with pytest.raises(InputError, match=f"loss_term is {name}, which is another figure's name"):
        TrainerConfig(loss_term=(f"{name}=1",))


def test_two_terms_of_one_name_are_refused(
    registered: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An activation's own term must not hide one that is given by command."""

    def own(activation: object, settings: object) -> list[WeightedTerm]:
        return [WeightedTerm("l1", 1.0, registered["l1"])]

    monkeypatch.setattr(registered["AboveMean"], "loss_terms", own)
    sae = SparseAutoencoder(registered["AboveMeanConfig"](8, 40), seed=1)
    trainer = Trainer(sae, TrainerConfig(loss_term=("l1=1",)))
    with pytest.raises(InputError, match="two terms of the loss or figures are called l1"):
        trainer.step(torch.randn(64, 8))


def test_neither_can_be_sharded(registered: dict[str, Any]) -> None:
    config = registered["AboveMeanConfig"](8, 40)
    with_term = TrainerConfig(shards=2, loss_term=("l1=1",))
    for settings, chosen in ((TrainerConfig(shards=2), config), (with_term, TopKConfig(8, 40, 4))):
        with pytest.raises(InputError, match="shards is 2, but only topk"):
            settings.validate_for(chosen)


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a process that has the page's code installed as a package."""
    return install(tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A cache of 3,000 rows of made-up words."""
    folder = tmp_path_factory.mktemp("extending")
    source = random.Random(0)
    lines = (" ".join(source.choices(("ab", "cde", "fg", "hij"), k=40)) for _ in range(200))
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    words = ["--model", tiny_model_folder, "--dataset", folder / "text.jsonl", "--tokens", 3000]
    words += ["--out", folder / "cache", "--context-length", 32, "--held-out-fraction", 0.2]
    assert main(["cache", *map(str, words)]) == 0
    return folder / "cache"


@pytest.fixture
def sparsteer(environment: dict[str, str], tmp_path: Path) -> Command:
    """Run the command in a process of its own."""

    def run(*words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "sparsteer.cli", *map(str, words)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stderr
        return done

    return run


def train_words(cache: Path, *more: object) -> list[object]:
    sizes = ["--n-latents", 48, "--batch-size", 50, "--tokens", 20_000, "--checkpoint-every", 20]
    return ["train", "--cache", cache, *sizes, *more]


def lines_of(run: Path) -> list[dict[str, Any]]:
    """The logged steps of a run, without checksums."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in one.items() if k != "crc32"} for one in lines if "loss" in one]


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice",
    [
        ["--activation", "above_mean", "--setting", "factor=3"],
        ["--k", 4, "--loss-term", "l1=0.003"],
    ],
    ids=["activation", "loss-term"],
)
def test_each_goes_through_the_whole_chain(
    sparsteer: Command,
    environment: dict[str, str],
    cache: Path,
    tmp_path: Path,
    choice: list[object],
) -> None:
    words = train_words(cache, *choice, "--out")
    sparsteer(*words, "whole")
    checkpoints = tmp_path / "killed" / "checkpoints"
    command = [sys.executable, "-m", "sparsteer.cli", *map(str, words), "killed"]
    with subprocess.Popen(
        command, env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and not [*checkpoints.glob("step-*")]:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed" / "sae").exists(), "it was complete before the kill"
    assert "goes on from step" in sparsteer(*words, "killed").stderr
    weights = [tmp_path / run / "sae" / "sae.safetensors" for run in ("whole", "killed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert lines_of(tmp_path / "whole") == lines_of(tmp_path / "killed")

    measured = json.loads(
        sparsteer("eval", "whole", "--cache", cache, "--contexts", 2, "--json").stdout
    )
    assert 0 < measured["fvu"] < 1 and measured["l0"] > 0
    sparsteer("export", "whole", "--out", "own", "--format", "sparsteer")
    assert (tmp_path / "own" / "sae.safetensors").exists()
    if "above_mean" in choice:
        error = sparsteer("export", "whole", "--out", "foreign", status=2).stderr
        assert "activation is above_mean, for which SAELens has no equal; choose --format" in error
        assert json.loads((tmp_path / "own" / "config.json").read_text())["factor"] == 3
        other = train_words(cache, "--activation", "above_mean", "--out", "whole")
        error = sparsteer(*other, status=2).stderr
        assert "holds a run with factor=3.0, not 2.0" in error
    else:
        sparsteer("export", "whole", "--out", "foreign")
        assert lines_of(tmp_path / "whole")[-1]["l1"] > 0
        error = sparsteer(*train_words(cache, "--k", 4, "--out", "whole"), status=2).stderr
        assert "holds a run with loss_term=['l1=0.003'], not []" in error


@pytest.mark.slow
def test_recipes_grids_and_help_know_them(sparsteer: Command, cache: Path, tmp_path: Path) -> None:
    recipe = {"cache": str(cache), "n_latents": 48, "batch_size": 50, "tokens": 500}
    recipe |= {"activation": "above_mean", "loss_term": ["l1=0.01"]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    grid = ["--out", "grid", "--grid", "activation=above_mean,topk", "k=3,5"]
    sparsteer("train", "--config", "recipe.yaml", *grid)
    assert {run.name for run in (tmp_path / "grid").iterdir()} == {
        "above_mean",
        "topk-k3",
        "topk-k5",
    }
    for run in (tmp_path / "grid").iterdir():
        assert lines_of(run)[-1]["l1"] > 0
    assert "above_mean}" in "".join(sparsteer("train", "--help").stdout.split())
