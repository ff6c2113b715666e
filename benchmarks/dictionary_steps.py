"""The settings of a dictionary, and the commands that make it."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from sparsteer.sae.common.errors import InputError
from sparsteer.sae.common.yaml_files import read_yaml
from sparsteer.sae.config import build_dataclass

SETTINGS = Path(__file__).parents[1] / "recipes" / "dictionaries"
"""A file for each dictionary, NAME.yaml."""


@dataclass(frozen=True, kw_only=True)
class DictionarySettings:
    """Everything that decides what a dictionary becomes; each mapping has options of one verb, as
    they are called on the command line."""

    name: str
    license: str
    """Of the autoencoder, as the Hugging Face hub calls it."""
    fetch: list[str] = field(default_factory=list[str])
    """Models and texts to fetch first."""
    cache: dict[str, Any]
    """`sparsteer cache`: language model, site, texts, tokens."""
    train: dict[str, Any]
    """`sparsteer train`."""
    evaluations: dict[str, dict[str, Any]]
    """`sparsteer eval`, by what it is measured on: the held-out part of the cache, or with `cache`
    among the options that of another cache, of which the options are given there (those left out
    are as above)."""
    index: dict[str, Any]
    """`sparsteer features build`."""
    most_megabytes: float = 30.0
    """Of the dictionary's folder, in millions of bytes."""
    limits: list[str] = field(default_factory=list[str])
    """Sentences for the card."""
    licenses: dict[str, str] = field(default_factory=dict[str, str])
    """Of texts that are not fetched by name, by the names of their files."""

    def __post_init__(self) -> None:
        verbs: dict[str, object] = {
            "cache": self.cache,
            "train": self.train,
            "index": self.index,
            "evaluations": self.evaluations,
        }
        for name, options in verbs.items():
            if not isinstance(options, dict):
                raise InputError(f"{name} is {options!r}; give options with their values")
        if "dataset" not in self.cache:
            raise InputError("cache has no dataset; name the texts")


@dataclass(frozen=True)
class Step:
    """One command on the way to a dictionary."""

    words: tuple[str, ...]
    """Behind `sparsteer`."""
    output: Path | None = None
    """File for the JSON object that the command prints; None where it is not kept."""

    @property
    def line(self) -> str:
        """As a person types it."""
        kept = f" --json > {shlex.quote(str(self.output))}" if self.output else ""
        return f"sparsteer {shlex.join(self.words)}{kept}"


@dataclass(frozen=True)
class Places:
    """Where the parts of a dictionary lie while it is made."""

    cache: Path
    run: Path
    compact: Path
    """With `sae/` as it is stored, and its feature index."""
    work: Path
    """Everything else."""

    def evaluation(self, title: str) -> Path:
        """The file with what was measured."""
        return self.work / f"evaluation-{_plain(title)}.json"

    def cache_of(self, title: str) -> Path:
        """The cache of an evaluation on other text."""
        return self.work / f"cache-{_plain(title)}"


def read_settings(path: Path) -> DictionarySettings:
    """The settings of a file.

    Raises:
        InputError: it is missing, no YAML mapping, or has unknown or missing keys.
    """
    values = read_yaml(str(path), "settings", remedy="mend it")
    return build_dataclass(DictionarySettings, dict(values), str(path))


def places_in(work: Path, *, cache: Path | None = None, run: Path | None = None) -> Places:
    """Where the parts lie: in the folder of the work, unless there are a cache or a run already."""
    return Places(cache or work / "cache", run or work / "run", work / "compact", work)


def steps(settings: DictionarySettings, places: Places) -> list[Step]:
    """The commands in their order. Each goes on where it stopped, or finds its work done.

    Raises:
        InputError: an option of the settings is neither a value nor a list of values.
    """
    found = [Step(("fetch", name)) for name in settings.fetch]
    found.append(Step(("cache", *words(settings.cache), "--out", str(places.cache))))
    trained = ("--cache", str(places.cache), "--out", str(places.run))
    found.append(Step(("train", *words(settings.train), *trained)))
    stored = ("--format", "sparsteer", "--dtype", "int8", "--force")
    out = str(places.compact / "sae")
    found.append(Step(("export", str(places.run), *stored, "--out", out)))
    for title, options in settings.evaluations.items():
        own = dict(options)
        cache = places.cache
        if other := own.pop("cache", None):
            cache = places.cache_of(title)
            found.append(Step(("cache", *words({**settings.cache, **other}), "--out", str(cache))))
        measured = ("eval", str(places.compact), "--cache", str(cache), *words(own))
        found.append(Step(measured, places.evaluation(title)))
    built = ("features", "build", str(places.compact), "--cache", str(places.cache))
    found.append(Step((*built, *words(settings.index))))
    return found


def words(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Options with their values as words of a command line."""
    found: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, Mapping) or value is None:
            raise InputError(f"the option {name} is {value!r}; give a value or a list of values")
        else:
            values = cast(list[object], value) if isinstance(value, list) else [value]
            found += [f"--{flag}", *map(str, values)]
    return tuple(found)


def _plain(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())
