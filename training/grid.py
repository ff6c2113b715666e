"""Several autoencoders on the same batches: which settings may vary, and one run for each choice.

Imports no torch.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..sae.common.errors import InputError
from ..sae.common.files import nearest
from ..sae.config import activations_with, config_class, settings_of
from .config import TrainConfig
from .data.stream.config import StreamConfig
from .trainer_config import CLOCK_SETTINGS, TrainerConfig

Grid = Mapping[str, Sequence[Any]]
"""For each setting that varies its values."""

# What decides the batches or the schedule of the run is one for all.
_SHARED = (
    *(
        "cache",
        "out",
        "finetune",
        "trainer",
        "track",
        "tokens",
        "batch_size",
        "data_seed",
        "device",
    ),
    *("log_every", "eval_every", "eval_rows", "checkpoint_every", "keep_checkpoints", "shards"),
    *("shard_optimizer", "cuda_graph"),
    *CLOCK_SETTINGS,
    *("stream", *(field.name for field in dataclasses.fields(StreamConfig))),
)
_MOST_CHOICES = 1000
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(TrainerConfig)}


def grid_settings() -> dict[str, Any]:
    """The types of the settings that may vary, by name."""
    hints = get_type_hints(TrainConfig) | get_type_hints(TrainerConfig)
    return {
        name: kind
        for name, kind in hints.items()
        if name not in _SHARED and get_origin(kind) is not tuple
    }


def parse_grid(words: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """The grid of words such as `k=32,64` and `activation=topk,top_afa`.

    Raises:
        InputError: a word has no values, or its setting is unknown, may not vary, or has values of
            another type.
    """
    settings = grid_settings()
    grid: dict[str, tuple[Any, ...]] = {}
    for word in words:
        shown, equals, values = word.partition("=")
        name = shown.replace("-", "_")
        if name in _SHARED:
            raise InputError(
                f"grid has {shown}, but its autoencoders share one reading of the data and one "
                f"schedule; give --{shown.replace('_', '-')} instead"
            )
        if name not in settings:
            near = nearest(name, settings)
            remedy = f"perhaps you meant {near[0]}" if near else f"it has {', '.join(settings)}"
            raise InputError(f"grid has no setting {shown!r}; {remedy}")
        if not equals or not all(values.split(",")):
            raise InputError(f"grid has {word!r}; write {shown}=VALUE,VALUE")
        if name in grid:
            raise InputError(f"grid has {shown} twice; write all its values in one list")
        grid[name] = tuple(_value(shown, text, settings[name]) for text in values.split(","))
    return grid


def grid_configs(config: TrainConfig, grid: Grid) -> list[TrainConfig]:
    """One configuration for each choice of values, with a folder of its own in `config.out`.

    A setting that an activation does not have (k of top_afa) is left out of its choices.

    Raises:
        InputError: the grid is empty, a setting is unknown or affects none of the autoencoders, or
            a choice is invalid.
    """
    if not grid:
        raise InputError("grid is empty; give a setting with its values, such as k=32,64")
    choices = math.prod(len(values) for values in grid.values())
    if choices > _MOST_CHOICES:
        raise InputError(
            f"grid has {choices:,} choices, more than the {_MOST_CHOICES:,} that fit into memory "
            "and one folder; give fewer values, and train the others by further commands"
        )
    if unknown := [name for name in grid if name not in grid_settings()]:
        raise InputError(f"grid has no setting {unknown[0]!r}; it has {', '.join(grid_settings())}")
    configs: dict[str, TrainConfig] = {}
    used: set[str] = set()
    for values in product(*grid.values()):
        choice = dict(zip(grid, values, strict=True))
        activation = str(choice.get("activation", config.activation))
        choice = {key: value for key, value in choice.items() if _applies(key, activation)}
        used |= choice.keys()
        name = "-".join(_part(key, value) for key, value in choice.items())
        configs[name] = _chosen(config, choice, name, activation)
    if unused := [name for name in grid if name not in used]:
        raise InputError(
            f"grid has {unused[0]}, which none of its autoencoders use; leave it out, or add an "
            "activation that has it"
        )
    return list(configs.values())


def _chosen(config: TrainConfig, choice: dict[str, Any], name: str, activation: str) -> TrainConfig:
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    own = {key: value for key, value in choice.items() if key in fields}
    not_its = {key for key in grid_settings() if not _applies(key, activation)}
    of_config: dict[str, Any] = dict.fromkeys(not_its & fields)
    of_trainer = {key: _DEFAULTS[key] for key in not_its - fields} | {
        key: value for key, value in choice.items() if key not in fields
    }
    try:
        return dataclasses.replace(
            config,
            **(of_config | own),
            out=f"{config.out.rstrip('/')}/{name}",
            trainer=dataclasses.replace(config.trainer, **of_trainer),
        )
    except InputError as error:
        raise InputError(f"grid, {name}: {error}") from None


def _applies(name: str, activation: str) -> bool:
    """Whether the activation has the setting; what all have, each has."""
    return not activations_with(name) or name in settings_of(config_class(activation))


def _part(name: str, value: object) -> str:
    return str(value) if name in ("activation", "site", "target_site") else f"{name}{value}"


def _value(name: str, text: str, kind: Any) -> Any:
    """The text as a value of the setting's type."""
    plain = next((part for part in get_args(kind) if part is not type(None)), kind)
    if get_origin(kind) is Literal:
        choices: tuple[str, ...] = get_args(kind)
        if text in choices:
            return text
        near = nearest(text, choices)
        hint = f"; perhaps you meant {near[0]}" if near else ""
        raise InputError(f"grid has {name}={text}, but must have one of {', '.join(choices)}{hint}")
    try:
        return plain(text)
    except ValueError:
        needed = "a whole number" if plain is int else "a number"
        raise InputError(f"grid has {name}={text}, but must have {needed}") from None
