"""The settings of the dictionaries that ship: their commands are ones that sparsteer accepts."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sparsteer.cli.arguments import parse
from sparsteer.cli.main import VERBS, find_verb
from sparsteer.sae import InputError
from sparsteer.sae.common.mixtures import shares_of
from sparsteer.sae.common.shipped import NAMES
from sparsteer.sae.fetching.artifacts import ARTIFACTS

ROOT = Path(__file__).parents[2]
SETTINGS = sorted((ROOT / "recipes" / "dictionaries").glob("*.yaml"))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))  # pyright: ignore[reportUnknownMemberType] - untyped
    return import_module("benchmarks.dictionary_steps")


def test_there_are_settings_for_every_dictionary() -> None:
    assert [path.stem for path in SETTINGS] == sorted(NAMES)


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.stem)
def test_every_command_is_accepted(path: Path, steps: Any, tmp_path: Path) -> None:
    settings = steps.read_settings(path)
    assert settings.name == path.stem
    seen: list[str] = []
    for step in steps.steps(settings, steps.places_in(tmp_path)):
        name, rest = find_verb(list(step.words), VERBS)
        seen.append(name)
        parse(f"sparsteer {name}", VERBS[name], rest)
    wanted = ["fetch", "cache", "train", "export", "eval", "features build"]
    assert [name for name in wanted if name in seen] == wanted
    texts = [word for word in settings.cache["dataset"]]
    for share in shares_of(" ".join(texts)):
        assert share.name in settings.fetch
        assert not ARTIFACTS[share.name].license.startswith("not stated")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("index: [3]", r"index is \[3\]; give options with their values"),
        ("indx: {}", "there is no key 'indx'; did you mean index"),
        ("cache: {tokens: 3}", "cache has no dataset"),
        ("train: {k: {a: 1}}", "the option k is .*; give a value or a list of values"),
    ],
)
def test_wrong_settings_are_told(changed: str, said: str, steps: Any, tmp_path: Path) -> None:
    lines = {
        "name": "name: x",
        "license": "license: mit",
        "cache": "cache: {dataset: news}",
        "train": "train: {k: 3}",
        "evaluations": "evaluations: {}",
        "index": "index: {}",
    }
    lines[changed.partition(":")[0]] = changed
    path = tmp_path / "x.yaml"
    path.write_text("\n".join(lines.values()) + "\n")
    with pytest.raises(InputError, match=said):
        steps.steps(steps.read_settings(path), steps.places_in(tmp_path))


def test_options_become_words(steps: Any) -> None:
    options = {"n_latents": 4, "logits": False, "suite": True, "dataset": ["a:3", "b"], "lr": 1e-3}
    words = ("--n-latents", "4", "--no-logits", "--suite", "--dataset", "a:3", "b", "--lr", "0.001")
    assert steps.words(options) == words
