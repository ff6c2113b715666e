"""The verb publish: the folder and its card, what gets out, the upload, and loading it again."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from sparsteer.sae import SparseAutoencoder
from sparsteer.sae.fingerprint import sae_fingerprint
from sparsteer.steering.features import FeatureIndex

from ..hub_stand_in import HubStandIn
from .conftest import Sparsteer

NAME = "owner/tiny-sae"


@pytest.fixture(scope="session")
def measured(
    tmp_path_factory: pytest.TempPathFactory, run_folder: Path, cache: Path
) -> tuple[Path, Path]:
    """A run with a feature index, and a file with its evaluation."""
    from sparsteer.cli.main import main
    from sparsteer.training.evaluation.config import EvalConfig
    from sparsteer.training.evaluation.evaluation import evaluate

    folder = tmp_path_factory.mktemp("measured")
    run = Path(shutil.copytree(run_folder, folder / "run"))
    words = ["--cache", str(cache), "--rows", "2000"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSTEER_THREADS", "1")
        assert main(["features", "build", str(run), *words]) == 0
    found = evaluate(EvalConfig(sae=str(run), cache=str(cache), contexts=4))
    (folder / "eval.json").write_text(json.dumps(found))
    return run, folder / "eval.json"


@pytest.fixture
def owner(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> HubStandIn:
    """The hub, with its owner logged in."""
    monkeypatch.setenv("HF_TOKEN", "token-of-owner")
    return hub


def parts_of(folder: Path) -> tuple[dict[str, Any], str]:
    """The metadata and the text of the card in a folder."""
    found = ModelCard.load(folder / "README.md")
    return found.data.to_dict(), found.text


def test_a_dry_run_writes_a_folder_and_sends_nothing(
    sparsteer: Sparsteer, measured: tuple[Path, Path], hub: HubStandIn, tmp_path: Path
) -> None:
    run, _ = measured
    done = sparsteer("publish", run, "--repo", NAME, "--out", tmp_path / "out", "--json")
    assert done.status == 0 and hub.requests == []
    assert done.values["pushed"] is False and done.values["commit"] is None
    assert done.values["url"] == f"{hub.endpoint}/{NAME}"
    files = {
        path.relative_to(tmp_path / "out").as_posix(): path.stat().st_size
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert done.values["files"] == files
    assert {"config.json", "saelens/cfg.json", "features/manifest.json", "plots/fvu.png"} <= set(
        files
    )
    metadata, text = parts_of(tmp_path / "out")
    assert metadata == {
        "library_name": "sparsteer",
        "tags": ["sparse-autoencoder", "mechanistic-interpretability", "sparsteer", "saelens"],
    }
    assert text.count("not measured (run `sparsteer eval`)") == 3
    for said in ("loss recovered and KL were not measured", "no license", "--base-model"):
        assert said in done.err


def test_the_card_has_what_was_measured(
    sparsteer: Sparsteer, measured: tuple[Path, Path], tmp_path: Path
) -> None:
    run, evaluation = measured
    options = ["--license", "mit", "--base-model", "some/model", "--no-index"]
    words = ["--repo", NAME, "--out", tmp_path / "out", "--evaluation", evaluation, *options]
    done = sparsteer("publish", run, *words)
    assert (done.status, done.err) == (0, "")
    assert "library_name: sparsteer" in done.out and "nothing was sent" in done.out
    metadata, text = parts_of(tmp_path / "out")
    assert (metadata["license"], metadata["base_model"]) == ("mit", "some/model")
    found = json.loads(evaluation.read_text())
    assert f"| FVU | {found['fvu']:.4f} ± " in text
    assert f"| KL | {found['language_model']['kl_with_sae']:.3f} ± " in text
    assert "not measured" not in text and not (tmp_path / "out" / "features").exists()
    pictures = re.findall(r"!\[.+\]\((.+)\)", text)
    assert pictures == [f"plots/{name}.png" for name in ("fvu", "l0", "density", "zf")]
    for picture in pictures:
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")
    origin = SparseAutoencoder.load(tmp_path / "out").origin
    assert origin is not None and origin.model == "some/model"


@pytest.mark.slow
def test_no_path_of_this_machine_gets_out(
    sparsteer: Sparsteer,
    measured: tuple[Path, Path],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    run, evaluation = measured
    words = ["--repo", NAME, "--out", tmp_path / "out", "--evaluation", evaluation]
    assert sparsteer("publish", run, *words).status == 0
    here = str(tmp_path_factory.getbasetemp()).encode()
    assert here in (run / "sae" / "config.json").read_bytes()
    for path in (tmp_path / "out").rglob("*.*"):
        if path.is_file():
            content = path.read_bytes()
            assert here not in content and str(Path.home()).encode() + b"/" not in content, path
    assert "a local model called `tiny`" in parts_of(tmp_path / "out")[1]


@pytest.mark.slow
def test_published_loaded_again_and_published_again(
    sparsteer: Sparsteer,
    measured: tuple[Path, Path],
    cache: Path,
    owner: HubStandIn,
    tmp_path: Path,
) -> None:
    run, evaluation = measured
    words = ["publish", run, "--repo", NAME, "--out", tmp_path / "out", "--push", "--json"]
    first = sparsteer(*words, "--private").values
    assert first["pushed"] and first["changed"] == sorted(first["files"])
    repository = owner.repositories[NAME]
    assert repository.private and first["commit"] == repository.branches["main"]

    sae, x = SparseAutoencoder.load(run), torch.randn(31, 32)
    for source in (f"hub:{NAME}", f"hub:{NAME}@{first['commit']}"):
        loaded = SparseAutoencoder.load(source)
        assert torch.equal(loaded.encode(x).dense(48), sae.encode(x).dense(48))
        assert torch.equal(loaded(x), sae(x))
    evaluated = [
        sparsteer("eval", source, "--cache", cache, "--contexts", "0", "--json").values
        for source in (f"hub:{NAME}", run)
    ]
    assert evaluated[0]["fvu"] == evaluated[1]["fvu"]
    index = FeatureIndex(tmp_path / "out" / "features", sae=sae_fingerprint(sae))
    assert index.feature(3) == FeatureIndex.of_run(run).feature(3)

    assert sparsteer(*words).values["changed"] == []
    second = sparsteer(*words, "--evaluation", evaluation, "--no-index").values
    features = {name for name in first["files"] if name.startswith("features/")}
    assert set(second["changed"]) == features | {"README.md", "plots/density.png", "plots/zf.png"}
    assert not features & set(repository.files())
    assert sparsteer(*words, "--revision", "tries").values["commit"] == repository.branches["tries"]


@pytest.mark.slow
def test_the_card_loads_it_with_torch_alone(
    sparsteer: Sparsteer, measured: tuple[Path, Path], owner: HubStandIn, tmp_path: Path
) -> None:
    assert owner.endpoint
    run, _ = measured
    assert (
        sparsteer("publish", run, "--repo", NAME, "--out", tmp_path / "out", "--push").status == 0
    )
    ours, saelens, alone, features = re.findall(
        r"```python\n(.*?)```", parts_of(tmp_path / "out")[1], re.DOTALL
    )
    names: dict[str, Any] = {}
    torch.default_generator.manual_seed(0)
    exec(ours, names)
    reconstructed, codes = names["x_hat"], names["codes"].dense(48)
    torch.default_generator.manual_seed(0)
    exec(alone, names)
    assert torch.equal(SparseAutoencoder.load(run)(names["x"]), reconstructed)
    torch.testing.assert_close(names["x_hat"], reconstructed)
    torch.testing.assert_close(names["latents"] * names["sae"].input_scale, codes)
    exec(features, {})
    assert 'SAE.load_from_disk(f"{folder}/saelens")' in saelens


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--repo", "no-owner"], "--repo is 'no-owner'; write OWNER/NAME"),
        (["--license", "My own!"], "--license is 'My own!'"),
        (["--base-model", "./here"], "--base-model is './here'"),
        (["--evaluation", "{here}"], "is not valid JSON"),
        (["--out", "{here}"], "is a file, not a folder"),
        (["--out", "{other}"], "holds something else than a published run"),
    ],
)
def test_wrong_options_are_a_sentence(
    sparsteer: Sparsteer, run_folder: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    (tmp_path / "here").write_text("text")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    (tmp_path / "other" / "README.md").write_text("library_name: sparsteer")
    places = {name: str(tmp_path / name) for name in ("here", "other")}
    given = ["--repo", NAME, "--out", str(tmp_path / "out")] if "--repo" not in words else []
    given = given[:2] if "--out" in words else given
    done = sparsteer("publish", run_folder, *given, *(word.format(**places) for word in words))
    assert done.status == 2 and said in done.error
    assert not (tmp_path / "out").exists() and (tmp_path / "other" / "file").exists()


def test_what_was_not_trained_here_is_refused(
    sparsteer: Sparsteer, run_folder: Path, tmp_path: Path
) -> None:
    words = ("--out", tmp_path / "in", "--no-check")
    assert sparsteer("import", run_folder / "sae", *words).status == 0
    done = sparsteer("publish", tmp_path / "in", "--repo", NAME)
    assert done.status == 2 and "in, which was not trained here" in done.error
    assert not (tmp_path / "in" / "publish").exists()


def test_an_evaluation_of_other_weights_is_refused(
    sparsteer: Sparsteer, measured: tuple[Path, Path], tmp_path: Path
) -> None:
    run, evaluation = measured
    found = json.loads(evaluation.read_text())
    other = {"is of another autoencoder than": found | {"fingerprint": "0" * 64}}
    del found["norms"]
    for said, content in {**other, "lacks 'norms'": found}.items():
        (tmp_path / "eval.json").write_text(json.dumps(content))
        words = ["--repo", NAME, "--out", tmp_path / "out", "--evaluation", tmp_path / "eval.json"]
        done = sparsteer("publish", run, *words)
        assert done.status == 2 and said in done.error
    done = sparsteer("publish", tmp_path, "--repo", NAME)
    assert done.status == 2 and "holds no trained autoencoder" in done.error


def test_an_index_of_another_state_of_the_run_is_left_out(
    sparsteer: Sparsteer, measured: tuple[Path, Path], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(measured[0], tmp_path / "run"))
    sae = SparseAutoencoder.load(run)
    with torch.no_grad():
        sae.b_enc.add_(0.1)
    sae.save(run / "sae")
    done = sparsteer("publish", run, "--repo", NAME)
    assert done.status == 0 and "is of another state of the run" in done.err
    assert not (run / "publish" / "features").exists()
    assert "## Feature index" not in (run / "publish" / "README.md").read_text()


@pytest.mark.slow
def test_killed_while_uploading_nothing_is_published(
    hub: HubStandIn, measured: tuple[Path, Path], tmp_path: Path
) -> None:
    """A program of its own, which the hub's address reaches through the environment."""
    words = ["publish", str(measured[0]), "--repo", NAME, "--out", str(tmp_path / "out"), "--push"]
    command = [sys.executable, "-m", "sparsteer", *words]
    environment = {**os.environ, **hub.environment, "HF_TOKEN": "token-of-owner"}
    hub.holds = f"POST /api/models/{NAME}/commit"
    with subprocess.Popen(command, env=environment) as process:
        assert hub.stalled.wait(120)
        process.kill()
    assert set(hub.repositories[NAME].files()) == {".gitattributes"} and hub.stored
    hub.holds = ""
    subprocess.run(command, env=environment, check=True)
    assert "saelens/cfg.json" in hub.repositories[NAME].files()
