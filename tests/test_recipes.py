"""Every recipe is accepted by its verb, and says with which command it is used."""

import re
import shlex
from pathlib import Path

import pytest

from sparsteer.cli.arguments import parse
from sparsteer.cli.cache import CacheOptions
from sparsteer.cli.main import VERBS, find_verb
from sparsteer.cli.train import TrainOptions
from sparsteer.steering.study.config import StudyConfig
from sparsteer.training.grid import grid_configs, parse_grid

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
D_MODEL = {"smollm2": 576, "gpt2-small": 768, "pythia-70m": 512, "gemma-2-2b": 2304}


def command(recipe: Path) -> list[str]:
    """The words behind `sparsteer` in the recipe's own comment."""
    comment = "\n".join(line[1:] for line in recipe.read_text().splitlines() if line[:1] == "#")
    (found,) = re.findall(r"^ +sparsteer (.+)$", comment.replace("\\\n", " "), re.MULTILINE)
    return shlex.split(found)


def test_there_are_recipes_for_every_model() -> None:
    assert {name for name in D_MODEL for r in RECIPES if r.name.startswith(name)} == set(D_MODEL)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_its_command_is_accepted(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = command(recipe)
    name, rest = find_verb(words, VERBS)
    assert rest[:2] == ["--config", f"recipes/{recipe.name}"]
    options, _ = parse(f"sparsteer {name}", VERBS[name], rest)
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


def words_of(name: str) -> list[str]:
    """The words behind the verb, with the recipe's whole path."""
    words = command(ROOT / "recipes" / f"{name}.yaml")[1:]
    return [str(ROOT / word) if word.startswith("recipes/") else word for word in words]
