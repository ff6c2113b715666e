"""The arrays and columns of a feature index, from what the pass gathered."""

from collections.abc import Iterator

import numpy as np

from .coactivation import coactivating
from .collect import Collector
from .config import BuildConfig
from .layout import COACTIVATING, NEAR_MISSES, QUANTILES
from .quantiles import levels
from .shard_files import ShardFiles
from .tables import ExampleTable
from .token_sums import token_explained

_OF_EXAMPLES = ("rows", "docs", "positions", "tokens", "activations")

Arrays = Iterator[tuple[str, np.ndarray]]
"""Arrays by name; each may go before the next one is made."""


def example_arrays(collector: Collector, config: BuildConfig) -> Arrays:
    """Top, random and near-miss examples; a random example's score means nothing to a reader."""
    yield from _of_table("top", collector.top, (*_OF_EXAMPLES, "duplicates"))
    for name in _OF_EXAMPLES:
        array = getattr(collector.sample, name)[:, : config.examples]
        yield f"random_{name}", array.cpu().numpy()
    if collector.near is not None:
        names = (*_OF_EXAMPLES, "duplicates", "scores")
        yield from _of_table(NEAR_MISSES, collector.near, names)


def _of_table(kind: str, table: ExampleTable, names: tuple[str, ...]) -> Arrays:
    for name in names:
        yield f"{kind}_{name}", getattr(table, name).cpu().numpy()


def shared_arrays(collector: Collector, config: BuildConfig, parts: ShardFiles) -> Arrays:
    """Examples by level, and the latents that fire together."""
    if config.quantiles:
        yield from _of_levels(collector, config)
    if collector.firing is not None:
        found = coactivating(
            parts.read,
            parts.count(),
            collector.statistics.fired.cpu().numpy(),
            config.coactivating,
            config.seed,
        )
        yield f"{COACTIVATING}_numbers", found.numbers
        yield f"{COACTIVATING}_together", found.together
        yield f"{COACTIVATING}_jaccard", found.jaccard


def _of_levels(collector: Collector, config: BuildConfig) -> Arrays:
    sample = collector.sample
    found = levels(
        sample,
        collector.statistics,
        peak=config.before,
        n_groups=config.quantiles,
        n_examples=config.quantile_examples,
    )
    yield f"{QUANTILES}_bounds", found.bounds.cpu().numpy()
    yield f"{QUANTILES}_counts", found.counts.cpu().numpy()
    yield f"{QUANTILES}_duplicates", found.duplicates.cpu().numpy()
    places = found.places.cpu().numpy()
    latents = np.arange(len(places))[:, None]
    for name in _OF_EXAMPLES:
        chosen = getattr(sample, name).cpu().numpy()[latents, places.clip(min=0)]
        chosen[places < 0] = {"tokens": -1, "activations": 0}.get(name, -1)
        yield f"{QUANTILES}_{name}", chosen


def statistics_columns(collector: Collector, parts: ShardFiles) -> dict[str, np.ndarray]:
    """The columns of statistics.parquet."""
    statistics = collector.statistics
    fired, special = statistics.fired, collector.special + collector.sinks
    columns = {
        "fired": fired,
        "density": fired.double() / statistics.n_rows,
        "mean_activation": statistics.mean(),
        "median_activation": statistics.percentile(0.5),
        "p99_activation": statistics.percentile(0.99),
        "max_activation": statistics.largest,
        "special_fraction": special / (fired + collector.sinks).clamp(min=1),
    }
    return {
        "feature": np.arange(len(fired), dtype=np.int32),
        **{name: values.cpu().numpy() for name, values in columns.items()},
        "token_explained": token_explained(
            parts.read, parts.count(), statistics, collector.tokens.counts
        ),
    }
