"""The features of an index in order of interest or of a statistic, with the labels of the picks."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Float

from ..labels.store import machine_labels
from .config import ListConfig, Statistic
from .index import FeatureIndex
from .picks import FILE, Pick, Picks

PEAK_TEXTS = 4
"""Tokens by which a feature is known in a list."""

_FEW_FIRINGS = 10
"""A feature that fired so often gets half of the interest that it would get of many firings."""


def list_features(config: ListConfig) -> dict[str, Any]:
    """What `sparsteer features list` shows: the features of a run in order of interest or of a
    statistic.

    Returns:
        run, by, unit, rows, n_latents, never_fired, and `features`, each with the statistics of
        the index, its `interest`, the tokens it fires most on (`peaks`), its `pick` and its
        `machine_label` (`MachineLabel.to_dict`), None if it has none.

    Raises:
        InputError: the run has no index, or the index or the picks are of another autoencoder.
    """
    index = FeatureIndex.of_run(config.run)
    picks = picks_of(index)
    machine = machine_labels(index.path.parent, sae=index.manifest["sae"])
    numbers = ranked(index, config.by, lowest=config.lowest)
    interests = interest(index)
    features = [
        {
            **{name: column[number].item() for name, column in index.statistics.items()},
            "interest": interests[number].item(),
            "peaks": index.peak_texts(number, PEAK_TEXTS),
            "pick": asdict(picks[number]) if number in picks else None,
            "machine_label": machine[number].to_dict() if number in machine else None,
        }
        for number in numbers[: config.top]
    ]
    return {
        "run": config.run,
        "by": config.by,
        "unit": index.manifest["unit"],
        "rows": index.manifest["rows"],
        "n_latents": index.n_latents,
        "never_fired": index.n_latents - len(numbers),
        "features": features,
    }


def interest(index: FeatureIndex) -> Float[np.ndarray, "F"]:
    """How much each feature promises to mean something, 0 to 1: a first order to look at them in.

    Four factors: mean activation where it fires as a fraction of its own largest one; rarity,
    log(1 / density) / log(rows); its largest activation beside the median feature's, max / (max +
    median), for what never gets far above the least activation there is fires at anything; and
    fired / (fired + 10), as a few firings say little. 0 for a feature that never fires.
    """
    fired = index.statistics["fired"].astype(np.float64)
    largest, mean = (
        index.statistics[f"{name}_activation"].astype(np.float64) for name in ("max", "mean")
    )
    fires = fired > 0
    usual = np.median(largest[fires]) if fires.any() else 1.0
    share = np.divide(mean, largest, out=np.zeros_like(fired), where=fires).clip(max=1)
    density = np.where(fires, index.statistics["density"], 1)
    strength = largest / (largest + usual)
    return (
        share * rarity(density, index.manifest["rows"]) * strength * fired / (fired + _FEW_FIRINGS)
    )


def rarity(density_N: Float[np.ndarray, "N"], n_rows: int) -> Float[np.ndarray, "N"]:
    """log(1 / density) / log(rows): 1 for what fired once, 0 for what always fires."""
    return -np.log(density_N) / math.log(max(n_rows, 2))


def ranked(index: FeatureIndex, by: Statistic, *, lowest: bool = False) -> list[int]:
    """The numbers of all features that ever fired, the largest value first or the lowest; of equal
    values the smaller number first."""
    fired = np.flatnonzero(index.statistics["fired"] > 0)
    values = (interest(index) if by == "interest" else index.statistics[by])[fired]
    order = np.argsort(values if lowest else -values, kind="stable")
    return fired[order].tolist()


def spread_by_density(
    index: FeatureIndex, number: int = 20, *, most_density: float = 0.01
) -> list[int]:
    """Features chosen by a rule that looks at no text: of those that fired, on less than
    `most_density` of the rows, sorted by density (of equal ones the smaller number first), those at
    the middles of `number` equal parts of the list. Fewer if there are not so many.
    """
    density = index.statistics["density"]
    found = np.flatnonzero((index.statistics["fired"] > 0) & (density < most_density))
    order = found[np.argsort(density[found], kind="stable")]
    number = min(number, len(order))
    places = (2 * np.arange(number) + 1) * len(order) // (2 * max(number, 1))
    return order[places].tolist()


def picks_of(index: FeatureIndex) -> dict[int, Pick]:
    """The picks beside the index, by feature."""
    return {pick.feature: pick for pick in picks_beside(index).picks}


def picks_beside(index: FeatureIndex) -> Picks:
    """The picks of the run that an index is of, perhaps none."""
    run, sae = index.path.parent, str(index.manifest["sae"])
    return Picks.load(run, sae=sae) if (run / FILE).exists() else Picks(sae)
