"""Batch size, learning rate and dead window of a run that leaves them open: as the run was begun
with, else by the rule of `defaults`. Imports no torch."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ..sae.common.wording import counted
from .config import TrainConfig
from .defaults import TrainingDefaults, derived_defaults
from .trainer_config import TrainerConfig

OPEN_SETTINGS = tuple(field.name for field in dataclasses.fields(TrainingDefaults))
"""Settings of a `TrainerConfig` that the rule derives."""

DERIVED = "derived_settings"
"""In config.yaml the names of those that were left open; what they came to stands in `trainer`."""


def left_open(config: TrainerConfig) -> tuple[str, ...]:
    """Which of `OPEN_SETTINGS` are not given."""
    return tuple(name for name in OPEN_SETTINGS if getattr(config, name) is None)


def resolved_defaults(config: TrainerConfig, n_latents: int, activation: str) -> TrainingDefaults:
    """The three settings: as given, and by the rule where they are left open.

    Args:
        config: of which any may be open.
        n_latents: latents of the whole dictionary.
        activation: the activation's name.
    """
    derived = derived_defaults(config.tokens, n_latents, activation, batch_size=config.batch_size)
    given = {name: getattr(config, name) for name in OPEN_SETTINGS}
    return dataclasses.replace(derived, **{k: v for k, v in given.items() if v is not None})


def with_defaults(config: TrainConfig, d_model: int) -> TrainConfig:
    """The configuration with nothing left open, for activations of the width."""
    n_latents = config.sae_config(d_model).n_latents
    found = resolved_defaults(config.trainer, n_latents, config.activation)
    return _with(config, dataclasses.asdict(found))


def begun_with(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The three settings of a run that has begun.

    Args:
        settings: its resolved configuration, config.yaml. An older sparsteer left rate and dead
            window open there; they are what they came to then.
    """
    trainer = settings["trainer"]
    found = {name: trainer.get(name) for name in OPEN_SETTINGS}
    if found["lr"] is None:
        found["lr"] = 2e-4 / (settings["sae"]["n_latents"] / 2**14) ** 0.5
    if found["dead_after_tokens"] is None:
        found["dead_after_tokens"] = min(10_000_000, max(1, trainer["tokens"] // 10))
    return found


def as_begun(
    configs: Sequence[TrainConfig], begun: Sequence[Mapping[str, Any] | None]
) -> list[TrainConfig]:
    """The configurations with what is open as their runs were begun with.

    Args:
        configs: those of a grid share their batches: where one run has begun, all take its size.
        begun: for each what `begun_with` gives, None where the run has not begun.
    """
    shared = next((found["batch_size"] for found in begun if found), None)
    defaults = {} if shared is None else {"batch_size": shared}
    return [
        _with(config, defaults if found is None else found)
        for config, found in zip(configs, begun, strict=True)
    ]


def _with(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The configuration with the values for what is open in it."""
    changes = {name: values[name] for name in left_open(config.trainer) if name in values}
    if not changes:
        return config
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, **changes))


def described(config: TrainConfig, names: Sequence[str]) -> str:
    """A sentence for a person about what was left open and came to be.

    Args:
        config: with nothing open.
        names: what was.
    """
    trainer, shown = config.trainer, list[str]()
    if "batch_size" in names:
        shown.append(f"batches of {counted(trainer.rows_per_step, 'row')}")
    if "lr" in names:
        shown.append(f"learning rate {trainer.lr:g}")
    if "dead_after_tokens" in names:
        window = counted(trainer.dead_after_tokens or 0, "row")
        shown.append(f"latents dead after {window} without firing")
    flags = " and ".join(f"--{name.replace('_', '-')}" for name in names)
    chooses = "chooses" if len(names) == 1 else "choose"
    return f"training takes {', '.join(shown)}, by its rule; {flags} {chooses}"
