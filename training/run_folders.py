"""Run folders before the first step: what they were begun with, and what they begin with."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .chosen_precision import chosen_precision, require_multiplied
from .config import TrainConfig
from .open_settings import begun_with, described
from .run import RESOLVED_PRECISION, RunFolder
from .trainer_config import Precision

Say = Callable[[str], None]


def settings_begun_with(configs: Sequence[TrainConfig]) -> list[dict[str, Any] | None]:
    """The batch size, rate and dead window of each run that has begun; None of one that has not."""
    settings = [RunFolder(config.out).settings_if_begun() for config in configs]
    return [begun_with(found) if found else None for found in settings]


def say_what_was_open(
    configs: Sequence[TrainConfig],
    names: Sequence[tuple[str, ...]],
    begun: Sequence[dict[str, Any] | None],
    say: Say,
) -> None:
    """Say once for all what new runs take for what was left open."""
    sentences = [
        described(config, of_it)
        for config, of_it, found in zip(configs, names, begun, strict=True)
        if of_it and found is None
    ]
    for sentence in dict.fromkeys(sentences):
        say(sentence)


def definite_precisions(
    configs: Sequence[TrainConfig], folders: Sequence[RunFolder], device: torch.device, say: Say
) -> list[Precision]:
    """The definite precision of each configuration; what is said is said once for all.

    Where `auto` is asked for, a run that has begun goes on in its own. A complete run multiplies
    nothing, so that its precision need not be this device's.
    """
    found: list[Precision] = []
    sentences: list[str] = []
    for config, folder in zip(configs, folders, strict=True):
        asked, begun = config.trainer.precision, folder.precision_begun_with()
        if begun is not None and folder.is_complete() and asked in ("auto", begun):
            found.append(begun)
            continue
        here = chosen_precision(config.trainer, device)
        if asked == "auto":
            if begun is None:
                sentences.append(f"training multiplies {here} on {device}; --precision chooses")
            elif begun != here:
                require_multiplied(begun, device)
                sentences.append(
                    f"{folder.path} was begun in {begun} and stays so; a new run would multiply "
                    f"{here} on {device}"
                )
            here = begun or here
        found.append(here)
    for sentence in dict.fromkeys(sentences):
        say(sentence)
    return found


def begin_folders(
    configs: Sequence[TrainConfig],
    resolved: Sequence[dict[str, Any]],
    folders: Sequence[RunFolder],
    processes: int,
    device: torch.device,
    say: Say,
) -> dict[str, dict[str, Any]]:
    """Claim every folder, then write what the runs that are not complete begin or go on with.

    Returns the summaries of the complete ones. A folder that cannot be claimed is told before any
    is changed.
    """
    complete: dict[str, dict[str, Any]] = {}
    begun: list[tuple[RunFolder, dict[str, Any]]] = []
    for config, settings, folder in zip(configs, resolved, folders, strict=True):
        if folder.claim(settings):
            say(f"{folder.path} is complete; nothing to train")
            complete[config.out] = folder.summary()
        else:
            # A complete run that is to go further has not been asked yet.
            require_multiplied(settings[RESOLVED_PRECISION], device)
            begun.append((folder, settings))
    for folder, settings in begun:
        folder.begin(
            settings,
            threads=torch.get_num_threads(),
            device=str(device),
            processes=processes,
        )
    return complete
