"""The verb export on a run of the tiny model."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from sparsteer.cli.main import main
from sparsteer.sae import SparseAutoencoder
from sparsteer.steering import Intervention
from sparsteer.steering.features import FeatureIndex

from .conftest import Sparsteer


def test_a_run_is_exported_once(sparsteer: Sparsteer, run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "a folder"
    done = sparsteer("export", run_folder, "--out", out, "--json")
    assert done.status == 0
    assert done.values["activation"] == "topk"
    exported = {"cfg.json", "sae_weights.safetensors", "SHA256SUMS"}
    assert {item.name for item in out.iterdir()} == exported
    again = sparsteer("export", run_folder, "--out", out)
    assert again.status == 0
    other = sparsteer("export", run_folder, "--out", out, "--format", "sparsteer")
    assert other.status == 2 and "exists with other content; give another --out" in other.error
    assert {item.name for item in out.iterdir()} == exported
    words = ("export", run_folder, "--out", out, "--format", "sparsteer", "--force")
    assert sparsteer(*words).status == 0
    assert {item.name for item in out.iterdir()} == {"config.json", "sae.safetensors"}
    (out / "thesis.tex").touch()
    refused = sparsteer(*words)
    assert refused.status == 2 and "something else than an export" in refused.error
    assert [item.name for item in tmp_path.iterdir()] == ["a folder"]
    for flag in ("--format", "--layout"):  # as it was called before
        other = sparsteer("export", run_folder, "--out", tmp_path / "x", flag, "torch")
        assert other.status == 2 and "--format is 'torch', but must be one of" in other.err
    assert not (tmp_path / "x").exists()


def test_saelens_gets_the_text_of_the_run(
    sparsteer: Sparsteer, run_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    assert sparsteer("export", run_folder, "--out", tmp_path / "out").status == 0
    metadata = json.loads((tmp_path / "out" / "cfg.json").read_text())["metadata"]
    assert metadata["dataset_path"] == str(corpus)
    assert (metadata["context_size"], metadata["prepend_bos"]) == (32, True)


@pytest.mark.parametrize("layout", ["saelens", "sparsteer"])
def test_another_export_is_refused_and_stays(
    sparsteer: Sparsteer,
    run_folder: Path,
    tmp_path: Path,
    layout: str,
) -> None:
    out = tmp_path / "out"
    words = ("export", run_folder, "--out", out, "--format", layout)
    assert sparsteer(*words).status == 0
    assert sparsteer(*words).status == 0  # the same is there
    config = out / ("cfg.json" if layout == "saelens" else "config.json")
    (weights,) = out.glob("*.safetensors")
    for file, old, new in ((config, b"topk", b"topj"), (weights, b"W_enc", b"W_enk")):
        whole = file.read_bytes()
        assert old in whole
        file.write_bytes(whole.replace(old, new))
        done = sparsteer(*words)
        assert done.status == 2 and "exists with other content; give another --out" in done.error
        file.write_bytes(whole)
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    done = sparsteer(*words)
    assert done.status == 2 and "exists with other content" in done.error
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("out", ["run/sae", "run/sae/deep", "run/../run/sae", "link", "other/sae"])
@pytest.mark.parametrize("source", ["run", "run/sae"])
def test_an_autoencoder_of_a_run_is_not_replaced(
    sparsteer: Sparsteer, run_folder: Path, tmp_path: Path, source: str, out: str
) -> None:
    for name in ("run", "other"):
        shutil.copytree(run_folder, tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "run" / "sae")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    words = ("export", tmp_path / source, "--out", tmp_path / out, "--force")
    done = sparsteer(*words)
    assert done.status == 2 and f"--out is {tmp_path / out}, " in done.error
    assert before == {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}


@pytest.fixture(scope="module")
def run_with_index(
    run_folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int]:
    """A run with a feature index and a pick, and the number of its busiest feature."""
    run = tmp_path_factory.mktemp("steered") / "run"
    shutil.copytree(run_folder, run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSTEER_THREADS", "1")
        assert main(["features", "build", str(run), "--cache", str(cache)]) == 0
        busiest = int(FeatureIndex.of_run(run).statistics["fired"].argmax())
        assert main(["pick", str(run), "add", str(busiest), "--strength", "-2"]) == 0
    return run, busiest


def test_steering_is_exported_with_the_options_of_generate(
    sparsteer: Sparsteer, run_with_index: tuple[Path, int], tmp_path: Path
) -> None:
    run, busiest = run_with_index
    out = tmp_path / "out"
    words = ("export", run, "--out", out, "--format", "lm-eval")
    done = sparsteer(*words, "--picks", run, "--strength", 0.5, "--json")
    assert done.status == 0
    spec = Intervention.from_dict(done.values["intervention"])
    index = FeatureIndex.of_run(run)
    (feature,) = spec.features
    assert (feature.index, feature.strength) == (busiest, -1.0)
    assert feature.max_activation == index.max_activation(busiest)
    (entry,) = torch.load(out / "steering.pt", weights_only=True).values()
    sae = SparseAutoencoder.load(run)
    expected = (-index.max_activation(busiest) * sae.W_dec[busiest] / sae.input_scale).detach()
    torch.testing.assert_close(entry["steering_vector"], expected)
    assert done.values["norm"] == pytest.approx(float(expected.square().sum().sqrt()))
    shown = sparsteer(*words, "--feature", busiest, "--strength", -1)
    assert shown.status == 0  # the same intervention, the same bytes
    assert f"feature {busiest} at -1 times its largest activation" in shown.out
    assert "added after block 1 of 3 (the first is 0)" in shown.out
    assert f"steer_path={out / 'steering.pt'}" in shown.out
    assert sparsteer("verify", out).status == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--format", "gguf"), "--feature is missing; give --feature N or --picks FILE"),
        (("--feature", 1), "--feature belongs to steering, and saelens holds the whole"),
        (("--layout", "sparsteer", "--strength", 2), "--strength belongs to steering"),
        (("--format", "gguf", "--feature", 99), "there is no feature 99"),
        (
            ("--format", "gguf", "--feature", 1, "--tier", "per_token"),
            "--tier is per_token, which steers some tokens only",
        ),
        (
            ("--format", "hotwire", "--feature", 1, "--site", "blocks.1.hook_attn_out"),
            "--site is blocks.1.hook_attn_out, and other tools steer the residual stream",
        ),
    ],
)
def test_steering_that_cannot_be_exported(
    sparsteer: Sparsteer,
    run_with_index: tuple[Path, int],
    tmp_path: Path,
    words: tuple[str | int, ...],
    sentence: str,
) -> None:
    done = sparsteer("export", run_with_index[0], "--out", tmp_path / "out", *words)
    assert done.status == 2 and sentence in done.error
    assert not (tmp_path / "out").exists()
