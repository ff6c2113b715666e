"""Every recipe is accepted by its verb, and says with which command it is used."""

import re
import shlex
from pathlib import Path

import pytest

from sparsteer.cli.arguments import parse
from sparsteer.cli.cache import CacheOptions
from sparsteer.cli.main import VERBS, find_verb
from sparsteer.cli.train import TrainOptions
from sparsteer.sae.interop.catalog import entry
from sparsteer.steering.study.config import StudyConfig
from sparsteer.training.grid import grid_configs, parse_grid

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PUBLIC_STUDIES = [r for r in RECIPES if r.stem in ("detox-gpt2-small", "detox-gemma-2-2b")]
D_MODEL = {"smollm2": 576, "gpt2-small": 768, "pythia-70m": 512, "gemma-2-2b": 2304}


def commands(recipe: Path) -> list[list[str]]:
    """The words behind each `sparsteer` in the recipe's own comment."""
    comment = "\n".join(line[1:] for line in recipe.read_text().splitlines() if line[:1] == "#")
    found = re.findall(r"^ +sparsteer (.+)$", comment.replace("\\\n", " "), re.MULTILINE)
    return [shlex.split(line) for line in found]


def command(recipe: Path) -> list[str]:
    """The last of them, which takes the recipe; what comes before prepares it."""
    return commands(recipe)[-1]


def test_there_are_recipes_for_every_model() -> None:
    assert {name for name in D_MODEL for r in RECIPES if r.name.startswith(name)} == set(D_MODEL)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_its_command_is_accepted(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = command(recipe)
    for before in commands(recipe)[:-1]:
        name, rest = find_verb(before, VERBS)
        parse(f"sparsteer {name}", VERBS[name], rest)
    name, rest = find_verb(words, VERBS)
    assert rest[:2] == ["--config", f"recipes/{recipe.name}"]
    options, _ = parse(f"sparsteer {name}", VERBS[name], rest)
    if isinstance(options, StudyConfig):
        return
    if recipe.stem.endswith("-cache"):
        assert isinstance(options, CacheOptions)
        assert options.cache.held_out_rows > 0
        return
    if isinstance(options, StudyConfig):
        assert options.n_prompts >= 200
        return
    assert isinstance(options, TrainOptions)
    configs = [options.train]
    if options.grid:
        configs = grid_configs(options.train, parse_grid(options.grid))
    width = next(d for model, d in D_MODEL.items() if recipe.name.startswith(model))
    for config in configs:
        assert config.sae_config(width).n_latents == options.train.n_latents
        assert config.trainer.n_steps > 100


@pytest.mark.parametrize("model", ["gpt2-small", "pythia-70m"])
def test_the_cache_has_every_row_that_training_sees(model: str) -> None:
    cache, _ = parse("", VERBS["cache"], words_of(f"{model}-cache"))
    held_in = cache.cache.tokens - cache.cache.held_out_rows
    for recipe in (r for r in RECIPES if r.name.startswith(model) and "cache" not in r.name):
        options, _ = parse("", VERBS["train"], words_of(recipe.stem))
        assert options.train.trainer.tokens <= held_in


@pytest.mark.parametrize("recipe", PUBLIC_STUDIES, ids=lambda recipe: recipe.stem)
def test_a_study_has_the_index_of_its_run_built_from_the_right_site(recipe: Path) -> None:
    cache, build, study = commands(recipe)
    options, _ = parse("", VERBS["cache"], _whole(cache[1:]))
    settings, _ = parse("", VERBS["detox eval"], _whole(study[2:]))
    known = entry(settings.run)
    assert known is not None and options.cache.site == (known.origin.site,)
    assert build[2] == settings.run and build[-1] == options.cache.out


def words_of(name: str) -> list[str]:
    """The words behind the verb, with the recipe's whole path."""
    return _whole(command(ROOT / "recipes" / f"{name}.yaml")[1:])


def _whole(words: list[str]) -> list[str]:
    """The words with the recipe's whole path."""
    return [str(ROOT / word) if word.startswith("recipes/") else word for word in words]
