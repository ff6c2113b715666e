"""The verb import: what is written, what the check finds, and what is refused."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae import JumpReLUConfig, Origin, ReLUConfig, SparseAutoencoder
from sparsteer.sae.common.tensor_files import load_tensors, save_tensors
from sparsteer.sae.interop.export import export
from sparsteer.training.data.cache.reader import ActivationCache

from ..sae.random_sae import random_sae
from .conftest import SITES, Sparsteer

KEPT = 24
"""Of the 32 directions of the tiny model's activations; the rest have little variance."""


@pytest.fixture(scope="module")
def principal(cache: Path, tiny_model_folder: Path) -> SparseAutoencoder:
    """A relu autoencoder of the main directions of SITES[1], both ways, which fits no other site
    as well."""
    rows_ND = ActivationCache(cache).held_out(site=SITES[1], limit=2000)
    mean_D = rows_ND.mean(0)
    linalg: Any = torch.linalg  # untyped
    V_DD: Tensor = linalg.svd(rows_ND - mean_D, full_matrices=False)[2]
    W_FD = torch.cat([V_DD[:KEPT], -V_DD[:KEPT]])
    origin = Origin(model=str(tiny_model_folder), site=SITES[1])
    sae = SparseAutoencoder(ReLUConfig(32, 2 * KEPT), origin=origin)
    sae.load_state_dict(sae.state_dict() | {"W_enc": W_FD, "W_dec": W_FD, "b_dec": mean_D})
    return sae


Edit = Callable[[dict[str, Any], dict[str, Tensor]], object]


@pytest.fixture
def foreign(principal: SparseAutoencoder, tmp_path: Path) -> Callable[[Edit], Path]:
    """A folder of SAELens with its configuration and tensors edited."""

    def make(edit: Edit) -> Path:
        folder = tmp_path / "foreign"
        export(principal, folder, "saelens", force=True)
        config = json.loads((folder / "cfg.json").read_text())
        tensors = load_tensors(folder / "sae_weights.safetensors", "")
        edit(config, tensors)
        (folder / "cfg.json").write_text(json.dumps(config))
        save_tensors(folder / "sae_weights.safetensors", tensors)
        return folder

    return make


def unchanged(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    pass


@pytest.mark.slow
def test_an_import_is_a_run(
    sparsteer: Sparsteer,
    foreign: Callable[[Edit], Path],
    corpus: Path,
    cache: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "in"
    words = ("import", foreign(unchanged), "--out", out, "--text", corpus, "--json")
    done = sparsteer(*words)
    assert done.status == 0, done.err
    values = done.values
    assert (values["layout"], values["activation"]) == ("saelens", "relu")
    assert (values["d_model"], values["n_latents"]) == (32, 2 * KEPT)
    check = values["check"]
    assert check["text"] == str(corpus) and check["rows"] > 3000
    assert 0 < check["fvu"] < 0.2 and check["explained_variance"] == 1 - check["fvu"]
    assert 20 < check["l0"] <= KEPT and not check["off"] and check["likely_causes"] == []
    assert json.loads((out / "import.json").read_text())["check"] == check
    sae = SparseAutoencoder.load(out)
    assert sae.origin is not None and sae.origin.weights_hash == check["weights_hash"]
    measured = sparsteer("eval", out, "--cache", cache, "--json").values
    assert measured["fvu"] == pytest.approx(check["fvu"], abs=0.05)
    assert sparsteer("features", "build", out, "--cache", cache).status == 0
    generated = sparsteer(
        *("generate", out, "--feature", 3, "--prompt", "abc", "--max-new-tokens", 4, "--json")
    )
    assert generated.status == 0, generated.err
    assert sparsteer(*words).status == 2  # an index lies in it now


@pytest.mark.slow
def test_an_autoencoder_elsewhere_is_taken_as_it_is(
    sparsteer: Sparsteer, foreign: Callable[[Edit], Path], cache: Path
) -> None:
    """eval, features and pick take the foreign folder itself; its index is kept for it."""
    source = foreign(unchanged)
    assert sparsteer("eval", source, "--cache", cache, "--json").values["fvu"] < 0.2
    assert sparsteer("features", "build", source, "--cache", cache).status == 0
    shown = sparsteer("features", "show", source, 2, "--json")
    assert shown.status == 0 and shown.values["feature"] == 2
    assert shown.values["unit"].startswith("the units of the library that trained the autoencoder")
    assert sparsteer("pick", source, "add", 2, "--label", "two").status == 0
    assert sparsteer("pick", source, "list", "--json").values["picks"][0]["label"] == "two"
    words = ("--prompt", "abc", "--max-new-tokens", 4, "--json")
    assert sparsteer("generate", source, "--picks", source, *words).status == 0
    assert sorted(item.name for item in source.iterdir()) == [
        *("SHA256SUMS", "cfg.json", "sae_weights.safetensors")
    ]
    # Neither a file that is no part of it nor another spelling of the path makes it another one.
    (source / "notes.txt").write_text("mine")
    again = sparsteer("pick", f"{source}/../{source.name}", "list", "--json")
    assert [pick["label"] for pick in again.values["picks"]] == ["two"]


def normalized(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    config["normalize_activations"] = "layer_norm"


def b_dec(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    config["apply_b_dec_to_input"] = False


def norms(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """As topk of SAELens trains them, with the factor of the codes forgotten."""
    factors = 10 ** (2 * torch.rand(2 * KEPT) - 1)
    tensors["W_dec"] *= factors[:, None]
    tensors["W_enc"] /= factors
    config.update(architecture="topk", k=6)


def site(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    config["metadata"]["hook_name"] = SITES[0]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (normalized, "its rows were not normalized in training: import it with --normalize-activa"),
        (b_dec, "its encoder subtracts b_dec: its configuration needs apply_b_dec_to_input true"),
        (norms, "its decoder's norms are not folded"),
        (site, f"its site is {SITES[1]}: import it with --site {SITES[1]}"),
    ],
)
def test_the_check_names_the_likely_cause(
    sparsteer: Sparsteer,
    foreign: Callable[[Edit], Path],
    corpus: Path,
    tmp_path: Path,
    fault: Edit,
    cause: str,
) -> None:
    words = ("import", foreign(fault), "--out", tmp_path / "in", "--text", corpus)
    done = sparsteer(*words, "--json")
    assert done.status == 0, done.err
    check = done.values["check"]
    assert check["off"] and check["likely_causes"][0]["cause"].startswith(cause)
    assert check["likely_causes"][0]["fvu"] < check["fvu"]
    assert "warning: the figures are off; likely its" in done.err
    sae = SparseAutoencoder.load(tmp_path / "in")
    assert sae.origin is not None and sae.origin.weights_hash is None


@pytest.mark.slow
def test_what_the_check_names_can_be_given(
    sparsteer: Sparsteer, foreign: Callable[[Edit], Path], corpus: Path, tmp_path: Path
) -> None:
    words = ("--out", tmp_path / "in", "--text", corpus, "--json")
    done = sparsteer("import", foreign(site), *words, "--site", SITES[1])
    assert done.values["site"] == SITES[1] and not done.values["check"]["off"]
    words = (*words, "--force")
    done = sparsteer("import", foreign(normalized), *words, "--normalize-activations", "none")
    assert not done.values["check"]["off"]

    def shrunk(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        tensors["b_dec"] *= 0.2

    done = sparsteer("import", foreign(shrunk), *words, "--input-scale", 0.2)
    assert not done.values["check"]["off"] and done.values["check"]["fvu"] < 0.2


@pytest.mark.slow
def test_keeping_k_latents_is_tried_where_l0_is_far_off(
    sparsteer: Sparsteer, principal: SparseAutoencoder, corpus: Path, tmp_path: Path
) -> None:
    """With relu in the configuration where top-k is meant, a dictionary much too dense."""
    folder = tmp_path / "average_l0_8"
    export(principal, folder, "saelens")
    done = sparsteer("import", folder, "--out", tmp_path / "in", "--text", corpus, "--json")
    assert done.values["check"]["stated"] == {"l0": 8.0}
    assert done.values["check"]["off"]


def test_without_a_model_rows_are_random_and_it_is_said(
    sparsteer: Sparsteer, tmp_path: Path
) -> None:
    sae = random_sae(JumpReLUConfig(13, 57), 3.7)
    sae.origin = None
    export(sae, tmp_path / "foreign", "saelens")
    words = ("import", tmp_path / "foreign", "--out", tmp_path / "in")
    done = sparsteer(*words, "--json")
    assert done.status == 0 and "checked on random rows; give --model and --site" in done.err
    assert done.values["check"]["text"] is None and done.values["check"]["l0"] > 0
    done = sparsteer(*words, "--no-check", "--force", "--json")
    assert done.status == 0 and done.values["check"] is None and done.err == ""
    done = sparsteer(*words, "--site", "blocks.1.hook_resid_post")
    assert done.status == 2 and "does not say its model; give --model, too" in done.error


def test_the_catalog_is_listed(sparsteer: Sparsteer) -> None:
    done = sparsteer("import", "--list", "gpt2", "--json")
    assert {one["model"] for one in done.values["releases"]} == {"gpt2-small"}
    assert "gemma-scope-2b-pt-res/layer_12/" in sparsteer("import", "--list", "all").out
    assert "is in no release" in sparsteer("import", "--list", "gqt2").error


def test_a_target_site_is_for_transcoders(
    sparsteer: Sparsteer, foreign: Callable[[Edit], Path], corpus: Path, tmp_path: Path
) -> None:
    def say_one(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        config["metadata"]["hook_name_out"] = SITES[0]

    words = ("--out", tmp_path / "in", "--text", corpus)
    refused = sparsteer("import", foreign(say_one), *words, "--target-site", SITES[0])
    assert refused.status == 2 and "is an autoencoder, which predicts what it reads" in refused.err
    done = sparsteer("import", foreign(say_one), *words, "--json")
    assert done.status == 0 and not done.values["check"]["off"]
    assert "the source is empty" in sparsteer("import", "", *words).error


def test_nothing_is_overwritten(
    sparsteer: Sparsteer, foreign: Callable[[Edit], Path], tmp_path: Path
) -> None:
    source = foreign(unchanged)
    out = tmp_path / "in"
    out.mkdir()
    (out / "thesis.tex").touch()
    words = ("import", source, "--out", out, "--no-check")
    for force in ((), ("--force",)):
        assert sparsteer(*words, *force).status == 2
    assert "loading" not in sparsteer("import", source, "--out", out).err  # refused at once
    assert [item.name for item in out.iterdir()] == ["thesis.tex"]
    shutil.rmtree(out)
    assert sparsteer(*words).status == 0
    assert sparsteer(*words).status == 0  # the very same
    assert "--force" in sparsteer(*words, "--site", SITES[0]).error


def test_eval_names_what_explains_an_fvu_above_1(
    sparsteer: Sparsteer, foreign: Callable[[Edit], Path], cache: Path
) -> None:
    done = sparsteer("eval", foreign(normalized), "--cache", cache, "--json")
    assert done.status == 0 and done.values["fvu"] > 1
    hint = "if another library trained it, likely its rows were not normalized in training: "
    assert any(text.startswith(hint) for text in done.values["warnings"]), done.values["warnings"]
    assert done.values["warnings"][-1].startswith("the held-out FVU is")


def test_another_language_model_is_refused(
    sparsteer: Sparsteer, principal: SparseAutoencoder, corpus: Path, tmp_path: Path
) -> None:
    """By the weights that the autoencoder remembers, or by its width."""
    words = ("--out", tmp_path / "in", "--text", corpus)
    assert principal.origin is not None
    origin = dataclasses.replace(principal.origin, weights_hash="0f" * 32)
    SparseAutoencoder(principal.config, origin=origin).save(tmp_path / "other")
    assert "has other weights than" in sparsteer("import", tmp_path / "other", *words).error
    SparseAutoencoder(ReLUConfig(31, 8), origin=principal.origin).save(tmp_path / "wide")
    refused = sparsteer("import", tmp_path / "wide", *words).error
    assert "reads activations of width 31, but blocks.1.hook_resid_post of" in refused
    assert "give the language model that it was trained on as --model" in refused
    assert not (tmp_path / "in").exists()
