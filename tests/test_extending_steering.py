"""What docs/extending.md adds to steering and selection: taken from the page, installed as a
package, and used by command."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae import LanguageModel, Origin, SparseAutoencoder, TopKConfig
from sparsteer.steering import Intervention, Sampling, SteeredFeature, generate, steer
from sparsteer.steering import registries as found_in
from sparsteer.steering.fitting import FitConfig, fit

from .toy_package import code_of, install

SITE = "blocks.1.hook_resid_post"
PROMPT = "The man said"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that has the page's package."""
    return install(tmp_path_factory.mktemp("installed"))


Run = Callable[..., str]


@pytest.fixture
def python(installed: dict[str, str], tmp_path: Path) -> Run:
    """Runs Python in a process that has the package, and gives what it printed."""

    def run(*words: object, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            env=installed,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stderr
        return done.stderr if status else done.stdout

    return run


@pytest.fixture
def sparsteer(python: Run) -> Run:
    """Runs the command in such a process."""

    def run(*words: object, status: int = 0) -> str:
        return python("-m", "sparsteer.cli", *words, status=status)

    return run


@pytest.fixture(scope="module")
def sae(tiny_model: LanguageModel, tiny_model_folder: Path) -> SparseAutoencoder:
    """Untrained, of the tiny model."""
    origin = Origin(model=str(tiny_model_folder), site=SITE, weights_hash=tiny_model.weights_hash)
    return SparseAutoencoder(TopKConfig(tiny_model.d_model, 64, 6), seed=5, origin=origin)


@pytest.fixture(scope="module")
def folder(sae: SparseAutoencoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the autoencoder."""
    path = tmp_path_factory.mktemp("runs") / "untrained"
    sae.save(path)
    return path


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The page's edit, gate and direction, known to this process for one test."""
    names: dict[str, Any] = {"__name__": "the_page"}
    registries = (found_in.EDITS, found_in.GATES, found_in.DIRECTIONS)
    sections = ("A steering edit", "A gate", "A direction")
    for section, registry in zip(sections, registries, strict=True):
        exec(code_of(section), names)
        monkeypatch.setattr(registry, "_values", {})
    found_in.EDITS.register("scale", names["Scale"])
    found_in.GATES.register("every_second", names["EverySecond"])
    found_in.DIRECTIONS.register("axis", names["axis"])
    return names


@pytest.mark.usefixtures("registered")
def test_edit_gate_and_direction_steer_one_site_together(
    tiny_model: LanguageModel, sae: SparseAutoencoder
) -> None:
    feature = SteeredFeature(index=7, strength=-1.0, max_activation=3.0)
    spec = Intervention.of_features(
        site=SITE, features=(feature,), edit="scale", tier="every_second", direction="axis"
    )
    tokens = torch.tensor([[0, 0, 1, 70, 80, 90, 100], [1, 50, 60, 70, 80, 90, 33]])
    mask = tokens > 0
    site = tiny_model.site(SITE)
    base = site.read(tokens, mask)
    with steer(tiny_model, sae, spec):
        steered = site.read(tokens, mask)
    expected = base.clone()
    expected[0, 3::2, 0] = expected[1, 1::2, 0] = 0.0
    assert torch.allclose(steered[mask], expected[mask], atol=1e-6)
    assert torch.equal(site.read(tokens, mask), base)
    assert Intervention.from_json(spec.to_json()) == spec


def test_a_fitting_method_is_fitted(
    tiny_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {"__name__": "the_page"}
    exec(code_of("A fitting method"), names)
    monkeypatch.setattr(found_in.FIT_METHODS, "_values", {})
    found_in.FIT_METHODS.register("median_difference", names["METHOD"])
    texts = {"positive": ["abc", "aab", "aba"], "negative": ["xyz", "zyx", "yyz"]}
    for side, lines in texts.items():
        (tmp_path / f"{side}.txt").write_text("\n".join(lines))
    config = FitConfig(
        method="median_difference",
        model=tiny_model.name,
        site=(SITE,),
        positive=str(tmp_path / "positive.txt"),
        negative=str(tmp_path / "negative.txt"),
        held_out=0.0,
        out=str(tmp_path / "fit"),
    )
    (edit,) = fit(config, tiny_model).edits
    site, medians = tiny_model.site(SITE), list[torch.Tensor]()
    for lines in texts.values():
        rows = [torch.tensor([[1, *tiny_model.tokenize(line)]]) for line in lines]
        means = [site.read(row)[0, 2:].mean(dim=0) for row in rows]
        medians.append(torch.stack(means).median(dim=0).values)
    torch.testing.assert_close(edit.tensors["v"], medians[0] - medians[1], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "name"), [("edit", "scale"), ("tier", "every_second"), ("direction", "axis")]
)
def test_each_generates_by_command_as_in_python(
    sparsteer: Run,
    folder: Path,
    tiny_model: LanguageModel,
    sae: SparseAutoencoder,
    request: pytest.FixtureRequest,
    key: str,
    name: str,
) -> None:
    settings = ("--feature", 7, "--strength", 60, "--max-activation", 2, "--max-new-tokens", 6)
    out = sparsteer("generate", folder, "--prompt", PROMPT, *settings, f"--{key}", name, "--json")
    values = json.loads(out)
    assert values["intervention"][key] == name

    request.getfixturevalue("registered")
    feature = {"index": 7, "strength": 60.0, "sign": 1, "max_activation": 2.0}
    spec = Intervention.from_dict({"site": SITE, "features": [feature], key: name})
    assert Intervention.from_dict(values["intervention"]) == spec
    sampling = Sampling(max_new_tokens=6)
    (expected,) = generate(tiny_model, [PROMPT], sampling, intervention=spec, sae=sae)
    (result,) = values["results"]
    assert result["steered"]["tokens"] == list(expected.tokens) != result["base"]["tokens"]


@pytest.mark.slow
def test_a_method_scores_and_selects_by_command(
    sparsteer: Run, folder: Path, tmp_path: Path
) -> None:
    texts = ["abc", "abcd", "abcdef", "abcdefg", "ab"]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    (tmp_path / "target.jsonl").write_text('{"text": "some words"}\n')
    words = ["pool.jsonl", "--target", "target.jsonl", "--run", folder, "--out", "scored.jsonl"]
    values = json.loads(sparsteer("score", *words, "--method", "even", "--json"))
    assert values["method"] == "even"
    sparsteer("select", "scored.jsonl", "--count", 3, "--out", "chosen.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert {row["sparsteer_tokens"] % 2 for row in rows} == {0, 1}
    assert all(row["sparsteer_score"] == 1 - row["sparsteer_tokens"] % 2 for row in rows)
    chosen = [json.loads(line) for line in (tmp_path / "chosen.jsonl").read_text().splitlines()]
    assert [row for row in rows if row["sparsteer_score"] == 1][:3] == chosen
    # The very method is part of what the file is known by.
    assert json.loads(sparsteer("score", *words, "--method", "even", "--json"))["reused"]
    assert "another --method" in sparsteer("score", *words, status=2)
    assert "another --seed" in sparsteer("score", *words, "--method", "even", "--seed", 1, status=2)


def test_a_scorer_is_taken_by_name(python: Run, sparsteer: Run) -> None:
    code = (
        "from sparsteer.steering.detox import toxicity_scores\n"
        'print(toxicity_scores(["Go!", "Go away."], "exclaims"))'
    )
    assert python("-c", code).strip() == "[0.3333333333333333, 0.0]"
    assert "exclaims}" in sparsteer("demo", "--help")


def test_a_wrong_name_is_answered_with_an_installed_one(sparsteer: Run, folder: Path) -> None:
    words = ("generate", folder, "--prompt", PROMPT, "--feature", 7)
    error = sparsteer(*words, "--edit", "scael", status=2)
    assert "--edit is 'scael'" in error and "scale" in error


@pytest.mark.slow
def test_a_format_of_steering_is_exported_to(
    sparsteer: Run, sae: SparseAutoencoder, folder: Path, tmp_path: Path
) -> None:
    words = ("export", folder, "--format", "numbers", "--feature", 7, "--strength", 2)
    for _ in range(2):  # a repeated export is known
        said = sparsteer(*words, "--max-activation", 3, "--out", tmp_path / "out")
        assert f"the numbers are in {tmp_path / 'out' / 'numbers.txt'}" in said
    layer, *numbers = (tmp_path / "out" / "numbers.txt").read_text().split()
    assert layer == "1"
    expected = (2 * 3.0 * sae.W_dec[7] / sae.input_scale).detach()
    torch.testing.assert_close(torch.tensor([float(each) for each in numbers]), expected)


@pytest.mark.slow
def test_a_part_of_the_suite_measures_by_command(
    sparsteer: Run, folder: Path, sae: SparseAutoencoder, tiny_model_folder: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "text.jsonl"
    lines = [json.dumps({"text": f"{number} words and more words " * 3}) for number in range(40)]
    corpus.write_text("\n".join(lines))
    made = ("--model", tiny_model_folder, "--dataset", corpus, "--out", tmp_path / "cache")
    how = ("--tokens", 900, "--context-length", 32, "--held-out-fraction", 0.3)
    sparsteer("cache", *made, *how, "--site", SITE, "--model-dtype", "float32")
    words = ("--suite", "--parts", "reach", "--baselines", "none", "--suite-out", tmp_path / "out")
    given = ("--part-setting", "reach.latents=50", "--json")
    out = sparsteer("eval", folder, "--cache", tmp_path / "cache", *words, *given)
    (one,) = json.loads(out)["autoencoders"]
    cosines = sae.W_dec.detach()[:50] @ sae.W_dec.detach()[:50].T
    largest = float(cosines.fill_diagonal_(-1).max())
    found = one["parts"]["reach"]
    assert found["figures"]["reach"]["value"] == pytest.approx(largest, abs=1e-6)
    assert found["details"] == {"latents": 50}
