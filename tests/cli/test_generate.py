"""The verb generate, on a run of the tiny model with a feature index."""

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from sparsteer.cli.console import Terminal
from sparsteer.cli.generate import run as run_verb
from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.sae.common.tensor_files import save_tensors
from sparsteer.sae.common.text import visible
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.config import GenerateConfig, Sampling
from sparsteer.steering.features import FeatureIndex
from sparsteer.steering.generation import generate
from sparsteer.steering.interventions.intervention import TIERS, Intervention
from sparsteer.steering.interventions.spec import Edit, SteeredFeature
from sparsteer.steering.interventions.vectors import Vectors
from sparsteer.steering.loading import load_run

from .conftest import SITES, Sparsteer


@pytest.fixture(scope="module")
def run(run_folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with an index of its features."""
    from sparsteer.cli.main import main

    folder = tmp_path_factory.mktemp("indexed") / "run"
    shutil.copytree(run_folder / "sae", folder / "sae")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSTEER_THREADS", "1")
        assert main(["features", "build", str(folder), "--cache", str(cache)]) == 0
    return folder


@pytest.fixture(scope="module")
def busy(run: Path) -> list[int]:
    """The two features that fire most."""
    fired = FeatureIndex.of_run(run).statistics["fired"]
    return [int(number) for number in fired.argsort()[::-1][:2]]


PROMPTS = ["abc def", "x", "ghi abc " * 9]


def texts(values: dict[str, Any], side: str) -> list[str]:
    return [result[side]["text"] for result in values["results"]]


def test_base_and_steered_as_python_generates_them(
    sparsteer: Sparsteer, run: Path, busy: list[int], tiny_model_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS[1:]))
    words = ["--feature", busy[0], busy[1], "--strength", "-3", "--tier", "per_input"]
    words += ["--prompt", PROMPTS[0], "--prompts", file, "--max-new-tokens", 9, "--seed", 4]
    done = sparsteer("generate", run, *words, "--temperature", "0.9", "--batch-size", 2, "--json")
    assert done.status == 0
    values = done.values
    assert [result["prompt"] for result in values["results"]] == PROMPTS
    spec = Intervention.from_dict(values["intervention"])
    index = FeatureIndex.of_run(run)
    assert [(f.index, f.strength, f.sign, f.max_activation) for f in spec.features] == [
        (number, -3.0, 1, index.max_activation(number)) for number in busy
    ]
    assert (spec.site, spec.tier, spec.threshold) == (SITES[1], "per_input", 0.0)
    model = LanguageModel.load(str(tiny_model_folder))
    sae = SparseAutoencoder.load(run)
    sampling = Sampling(max_new_tokens=9, seed=4, temperature=0.9)
    base = generate(model, PROMPTS, sampling)
    steered = generate(model, PROMPTS, sampling, intervention=spec, sae=sae)
    assert texts(values, "base") == [text.text for text in base]
    assert texts(values, "steered") == [text.text for text in steered]
    assert texts(values, "base") != texts(values, "steered")
    kept = values["results"][0]["steered"]
    assert kept["tokens"] == list(steered[0].tokens) and kept["stopped"] == steered[0].stopped
    assert kept["repetition"] == steered[0].repetition
    for result, text in zip(values["results"], steered, strict=True):
        kept = (result["steered"]["steered_tokens"], result["steered"]["steered_from"])
        assert kept == (text.steered_tokens, text.steered_from)
        assert result["prompt_tokens"] == 1 + len(result["prompt"])
        assert (result["base"]["steered_tokens"], result["base"]["steered_from"]) == (0, None)
    assert any(text.steered_tokens for text in steered)


def test_a_saved_intervention_steers_again(
    sparsteer: Sparsteer, run: Path, busy: list[int], tmp_path: Path
) -> None:
    words = ["--prompt", "abc", "--max-new-tokens", 9, "--json"]
    options = ["--feature", busy[0], "--strength", 3, "--tier", "per_input", "--threshold", "0.1"]
    first = sparsteer("generate", run, *options, *words).values
    file = tmp_path / "intervention.json"
    file.write_text(Intervention.from_dict(first["intervention"]).to_json())
    again = sparsteer("generate", run, "--intervention", file, *words).values
    assert again == first
    for other in (["--feature", "3"], ["--tier", "all"], ["--site", SITES[0]], ["--strength", 2]):
        done = sparsteer("generate", run, "--intervention", file, *other, *words)
        assert done.status == 2
        assert f"{other[0]} cannot stand beside --intervention" in done.err
    file.write_text('{"site": "blocks.1.hook_resid_post"}')
    done = sparsteer("generate", run, "--intervention", file, *words)
    assert done.status == 2 and str(file) in done.err and "features" in done.err
    done = sparsteer("generate", run, "--intervention", tmp_path / "none.json", *words)
    assert done.status == 2 and "there is no intervention at" in done.err


def test_a_folder_with_vectors_and_a_clamp_steer(
    sparsteer: Sparsteer, run: Path, busy: list[int], tmp_path: Path
) -> None:
    loaded = load_run(str(run))
    model, site, sae = loaded
    words = ["--prompt", "abc", "--max-new-tokens", 9, "--json"]
    folder = tmp_path / "turned"
    plane = torch.randn(2, model.d_model)
    turn = Edit(
        kind="rotate",
        site=site.name,
        vectors=Vectors({"b1": plane[0], "b2": plane[1]}),
        settings={"angle": 120.0},
    )
    spec = Intervention(edits=(turn,), positions="generated")
    spec.save(folder)
    sampling = Sampling(max_new_tokens=9)
    for place in (folder, folder / "intervention.json"):
        values = sparsteer("generate", run, "--intervention", place, *words).values
        assert Intervention.from_dict(values["intervention"]) == spec
        (expected,) = generate(model, ["abc"], sampling, intervention=spec)
        (result,) = values["results"]
        assert result["steered"]["tokens"] == list(expected.tokens)
        # The last token that is written is not read any more.
        assert result["steered"]["steered_tokens"] == len(expected.tokens) - 1
    save_tensors(folder / "vectors.safetensors", {"edits.0.b1": plane[1], "edits.0.b2": plane[0]})
    done = sparsteer("generate", run, "--intervention", folder, *words)
    assert done.status == 2 and "are not those that were written" in done.err

    options = ["--feature", busy[0], "--strength", -2, "--edit", "clamp", "--max-activation", 3]
    values = sparsteer("generate", run, *options, *words).values
    feature = SteeredFeature(index=busy[0], strength=-2.0, max_activation=3.0)
    clamp = Intervention.of_features(site=site.name, features=(feature,), edit="clamp")
    assert Intervention.from_dict(values["intervention"]) == clamp
    (expected,) = generate(model, ["abc"], sampling, intervention=clamp, sae=sae)
    assert values["results"][0]["steered"]["tokens"] == list(expected.tokens)
    done = sparsteer("generate", run, "--feature", 3, "--edit", "ablate", "--strength", 2, *words)
    assert done.status == 2 and "--strength is 2, but ablate takes away what there is" in done.err
    done = sparsteer("generate", run, "--feature", 3, "--edit", "diagonal", *words)
    assert done.status == 2 and "diagonal" in done.err


def test_picks_steer_with_their_own_strengths(
    sparsteer: Sparsteer, run: Path, busy: list[int]
) -> None:
    for number, strength in zip(busy, ("1.5", "-0.5"), strict=True):
        sparsteer("pick", run, "add", number, "--strength", strength)
    words = ["--prompt", "abc", "--max-new-tokens", 2, "--json"]
    for given, factor in (([], 1.0), (["--strength", 2], 2.0)):
        done = sparsteer("generate", run, "--picks", run / "picks.json", *given, *words)
        found = done.values["intervention"]["features"]
        assert [(f["index"], f["strength"]) for f in found] == [
            (busy[0], 1.5 * factor),
            (busy[1], -0.5 * factor),
        ]


def test_a_person_reads_both_sides_and_a_warning(
    sparsteer: Sparsteer, run: Path, busy: list[int]
) -> None:
    words = ["--feature", busy[0], "--strength", 400, "--prompt", "abc\x1b[2J def"]
    done = sparsteer("generate", run, *words, "--max-new-tokens", 30)
    assert done.status == 0
    assert "prompt: abc\u27e8U+001B\u27e9[2J def" in done.out
    assert "base" in done.out and "steered" in done.out
    said = f"steered constant: feature {busy[0]} at +400 times its largest activation"
    assert said in done.out
    assert "likely incoherent" in done.out
    assert "\x1b" not in done.out + done.err


def test_bytes_that_are_not_utf_8_are_read_as_question_marks(
    sparsteer: Sparsteer, run: Path, busy: list[int]
) -> None:
    words = ["--feature", busy[0], "--max-new-tokens", 4, "--prompt"]
    given, same = (
        sparsteer("generate", run, *words, f"{mark}{mark} bad", "--json")
        for mark in (os.fsdecode(b"\xff"), "?")
    )
    assert given.status == 0
    assert given.values["results"][0]["prompt"] == "\udcff\udcff bad"
    for side in ("base", "steered"):
        assert given.values["results"][0][side] == same.values["results"][0][side]
    shown = sparsteer("generate", run, *words, os.fsdecode(b"\xff bad"))
    assert shown.status == 0 and "prompt: \u27e8byte FF\u27e9 bad" in shown.out


@pytest.mark.slow
def test_all_tiers_are_what_each_is_alone(
    sparsteer: Sparsteer, run: Path, busy: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--feature", busy[0], "--strength", 30, "--temperature", 0.8, "--batch-size", 2]
    words += [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    words += ["--max-new-tokens", 7, "--seed", 3, "--threshold", 0.3]
    loads: list[str] = []
    load = LanguageModel.load

    def counted(name: str, **given: Any) -> LanguageModel:
        loads.append(name)
        return load(name, **given)

    monkeypatch.setattr(LanguageModel, "load", counted)
    together = sparsteer("generate", run, *words, "--tier", "all", "--json").values
    assert len(loads) == 1
    assert list(together["interventions"]) == list(TIERS) and "intervention" not in together
    for tier in TIERS:
        alone = sparsteer("generate", run, *words, "--tier", tier, "--json").values
        assert together["interventions"][tier] == alone["intervention"]
        for found, expected in zip(together["results"], alone["results"], strict=True):
            assert list(found["steered"]) == list(TIERS)
            assert found | {"steered": found["steered"][tier]} == expected
    last = together["results"][-1]["steered"]
    assert last["constant"]["tokens"] != last["per_token"]["tokens"]
    shown = sparsteer("generate", run, *words, "--tier", "all")
    assert f"steered under each tier: feature {busy[0]} at +30 times" in shown.out
    assert shown.out.count("base") >= len(PROMPTS) and shown.out.count("per_input") >= len(PROMPTS)
    assert "per_token: tokens steered: " in shown.out


EVERYWHERE = ("--threshold=-inf",)
SAME = "the texts are the same: "


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("per_token", "--strength", 50, *EVERYWHERE),
            ["tokens steered: 4, the first is number 2"],
        ),
        (
            ("per_input", "--strength", 50, *EVERYWHERE),
            ["tokens steered: 6, the first is number 0"],
        ),
        (
            ("per_token", "--strength", 50, "--threshold", 1000),
            [f"{SAME}the gate was open at no token"],
        ),
        (
            ("per_token", "--strength", 1e-9, *EVERYWHERE),
            ["tokens steered: 4, the first", f"{SAME}the push is too weak to change a token"],
        ),
        (("per_token", "--strength", 0, *EVERYWHERE), [f"{SAME}every strength is 0"]),
        (("constant", "--strength", 0), [f"{SAME}every strength is 0"]),
        (("constant", "--strength", 1e-9), [f"{SAME}the push is too weak to change a token"]),
        (("constant", "--strength", 50), []),
    ],
)
def test_a_person_reads_where_a_text_was_steered_and_why_it_is_the_same(
    sparsteer: Sparsteer, run: Path, busy: list[int], words: tuple[object, ...], said: list[str]
) -> None:
    # BOS, three bytes and the two of three new tokens that are read; BOS and "a" never fire.
    given = ["--feature", busy[0], "--prompt", "abc", "--max-new-tokens", 3, "--tier", *words]
    done = sparsteer("generate", run, *given)
    assert done.status == 0
    lines = [line for line in done.out.splitlines() if SAME in line or "tokens steered" in line]
    assert len(lines) == len(said)
    for line, begin in zip(lines, said, strict=True):
        assert line.startswith(begin)


def test_a_terminal_shows_every_token_and_is_cleared(
    run: Path, busy: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    terminal = Terminal()
    console = Console(file=screen, force_terminal=True, width=100, markup=False)
    monkeypatch.setattr(terminal, "_console", console)
    config = GenerateConfig(
        run=str(run), feature=(busy[0],), prompt=("abc",), sampling=Sampling(max_new_tokens=5)
    )
    report = run_verb(config, terminal)
    (result,) = report.values["results"]
    shown = screen.getvalue()
    assert shown.count("prompt: abc") == 6  # after every token, and once more before it is gone
    assert visible(result["steered"]["text"][:2]) in shown
    assert shown.rstrip().endswith("\x1b[2K")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--feature", "48"], "there is no feature 48; this autoencoder has features 0 to 47"),
        (["--feature", "-1"], "there is no feature -1"),
        (["--feature", "1", "--tier", "per_tokens"], "per_token"),
        (["--feature", "1", "--strength", "nan"], "--strength is nan, but must be a finite number"),
        (["--feature", "1", "--strength", "inf"], "--strength is inf"),
        (["--feature", "1", "--threshold", "nan"], "--threshold is nan"),
        (["--feature", "1", "--picks", "x"], "--picks cannot stand beside --feature"),
        ([], "--feature is missing; give --feature N or --picks FILE"),
        (["--feature", "3", "--feature", "3"], "--feature names 3 more than once; give each"),
        (
            ["--feature", "1", "--max-activation", "-2"],
            "--max-activation is -2.0, but must",
        ),
        (
            ["--feature", "1", "--max-activation", "0"],
            "--max-activation is 0.0, but must be",
        ),
        (["--feature", "1", "--temperature", "-1"], "--temperature is -1"),
        (["--feature", "1", "--site", "blocks.1.hook_residpost"], "blocks.1.hook_resid_post"),
        (
            ["--feature", "1", "--max-new-tokens", "600"],
            "--max-new-tokens is 600, which with a prompt of 4 tokens exceeds the 512",
        ),
        (["--feature", "1", "--chat"], "no chat template"),
        (["--feature", "1", "--prompts", "none.txt"], "none.txt is not there"),
        (["--picks", "none.json"], "there are no picks at none.json"),
    ],
)
def test_wrong_input_is_one_sentence(
    sparsteer: Sparsteer, run: Path, words: list[str], message: str
) -> None:
    done = sparsteer("generate", run, "--prompt", "abc", *words)
    assert done.status == 2
    assert message in done.error


def test_no_prompt_is_one_sentence(sparsteer: Sparsteer, run: Path) -> None:
    done = sparsteer("generate", run, "--feature", 1)
    assert done.status == 2
    assert done.error == "--prompt is missing; give --prompt TEXT or --prompts FILE"


def test_picks_of_another_autoencoder_are_refused(
    sparsteer: Sparsteer, run: Path, busy: list[int], tmp_path: Path
) -> None:
    SparseAutoencoder(TopKConfig(32, 48, 4), seed=9).save(tmp_path / "other" / "sae")
    sparsteer("pick", tmp_path / "other", "add", busy[0])
    done = sparsteer("generate", run, "--picks", tmp_path / "other", "--prompt", "abc")
    assert done.status == 2
    assert "are of another autoencoder" in done.error


def test_without_an_index_the_unit_must_be_given(
    sparsteer: Sparsteer, run_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(run_folder / "sae", tmp_path / "run" / "sae")
    words = [tmp_path / "run", "--feature", 3, "--prompt", "abc", "--max-new-tokens", 2]
    done = sparsteer("generate", *words)
    assert done.status == 2
    assert "holds no feature index; build it with" in done.error
    done = sparsteer("generate", *words, "--max-activation", 2.5, "--json")
    assert done.values["intervention"]["features"][0]["max_activation"] == 2.5


def test_a_feature_that_never_fired_is_refused(
    sparsteer: Sparsteer, run_folder: Path, cache: Path, tmp_path: Path
) -> None:
    sae = SparseAutoencoder.load(run_folder)
    sae.b_enc.data[5] -= 1000
    sae.save(tmp_path / "run" / "sae")
    sparsteer("features", "build", tmp_path / "run", "--cache", cache, "--rows", 500)
    done = sparsteer("generate", tmp_path / "run", "--feature", 5, "--prompt", "abc")
    assert done.status == 2
    assert done.error == (
        "feature 5: max_activation is 0.0, so it never fired; choose another feature"
    )
