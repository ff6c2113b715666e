"""The features of an index in order of a statistic, with the labels of the picks."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .config import ListConfig, Statistic
from .index import FeatureIndex
from .picks import FILE, Pick, Picks

_PEAK_TEXTS = 4


def list_features(config: ListConfig) -> dict[str, Any]:
    """What `sparsteer features list` shows: the features of a run in order of a statistic.

    Returns:
        run, by, unit, rows, n_latents, never_fired, and `features`, each with the statistics of
        the index, the tokens it fires most on (`peaks`), and its pick, None if it is not picked.

    Raises:
        InputError: the run has no index, or the index or the picks are of another autoencoder.
    """
    index = FeatureIndex.of_run(config.run)
    picks = _picks(index)
    numbers = ranked(index, config.by, lowest=config.lowest)
    features = [
        {
            **{name: column[number].item() for name, column in index.statistics.items()},
            "peaks": index.peak_texts(number, _PEAK_TEXTS),
            "pick": asdict(picks[number]) if number in picks else None,
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


def ranked(index: FeatureIndex, by: Statistic, *, lowest: bool = False) -> list[int]:
    """The numbers of all features that ever fired, the largest value first or the lowest; of equal
    values the smaller number first."""
    fired = np.flatnonzero(index.statistics["fired"] > 0)
    values = index.statistics[by][fired]
    order = np.argsort(values if lowest else -values, kind="stable")
    return fired[order].tolist()


def _picks(index: FeatureIndex) -> dict[int, Pick]:
    """The picks beside the index, by feature."""
    run = Path(index.path).parent
    if not (run / FILE).exists():
        return {}
    return {pick.feature: pick for pick in Picks.load(run, sae=index.manifest["sae"]).picks}
