"""Runs of one configuration with different seeds: their mean and their spread."""

import json
import statistics
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from ...training.run import RunFolder
from ...training.run_places import is_run, run_of

_SEEDS = ("seed", "data_seed")
_INDIFFERENT = ("out", "cache", "track", "device")
"""Where a run lies and what it was computed on; which cache it was stays, by its fingerprint."""


def seed_groups(paths: Sequence[str]) -> list[tuple[int, ...]]:
    """The numbers of the autoencoders that are runs of one configuration but for the seed, at least
    two in a group."""
    groups: dict[str, list[int]] = {}
    for number, path in enumerate(paths):
        run = run_of(Path(path))
        if is_run(run):
            key = json.dumps(_without_seed(RunFolder(run).settings()), sort_keys=True, default=str)
            groups.setdefault(key, []).append(number)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def common_name(names: Sequence[str]) -> str:
    """What names have in common at both ends, with * for what differs: topk-seed*."""
    start = _common_start(names)
    end = _common_start([name[len(start) :][::-1] for name in names])[::-1]
    return f"{start}*{end}"


def _common_start(names: Sequence[str]) -> str:
    columns = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in columns)


def over_seeds(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and spread of each figure that all the runs have.

    Args:
        figures: of each run its figures by name, as they are saved.

    Returns:
        For each figure `mean`, `spread` (the standard deviation over seeds, with n - 1), `seeds`,
        and how it is shown; both are None where the figure has no meaning in one of the runs.
    """
    found: dict[str, Any] = {}
    for name, first in figures[0].items():
        if not all(name in of_run for of_run in figures):
            continue
        values = [of_run[name]["value"] for of_run in figures]
        whole = None not in values
        found[name] = {
            "mean": statistics.fmean(values) if whole else None,
            "spread": statistics.stdev(values) if whole else None,
            "seeds": len(values),
            **{key: first[key] for key in ("heading", "digits", "percent", "in_table")},
        }
    return found


def _without_seed(settings: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in (*_SEEDS, *_INDIFFERENT):
            flat[name] = _without_seed(value) if isinstance(value, dict) else value  # pyright: ignore[reportUnknownArgumentType] - of YAML
    return flat
