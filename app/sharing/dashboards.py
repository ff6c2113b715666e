"""Features in the layout of SAEDashboard's runner: batch-N.json, which its converter and
Neuronpedia's read.

Keys are those of `NeuronpediaDashboardBatch` in SAEDashboard of May 2026. What the index does not
measure, such as aligned neurons and a histogram of all logits, is an empty list, as the runner
itself writes for what it was told to leave out.
"""

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...steering.features.feature import Example, Feature
from ...steering.features.index import FeatureIndex
from ...steering.features.listing import ranked
from .chosen import Chosen
from .config import ShareConfig
from .layer import Place, place_of

FEATURES_IN_BATCH = 256

_TOP, _NOT_OF_ALL = -1, -1.0
"""Lower bound and share of the group of the largest activations."""


def write_dashboards(
    folder: Path,
    chosen: Chosen,
    config: ShareConfig,
    report: Callable[[int, int, str], None],
) -> None:
    """Write the batches, and `skipped_indexes.json` with the features that never fired.

    Args:
        folder: an empty folder.
        chosen: the features.
        config: names and how many examples.
        report: told of progress.
    """
    place = place_of(chosen, config)
    for number, batch in enumerate(batches(chosen, place, config.examples, report)):
        write_plain_json(folder / f"batch-{number}.json", batch)
    # Whoever reads it takes them for dead, so those that were not chosen are not among them.
    fired = set(ranked(chosen.index, "density"))
    skipped = set(range(chosen.index.n_latents)) - fired - set(chosen.numbers)
    write_plain_json(
        folder / "skipped_indexes.json",
        {
            "model_id": place.model_id,
            "layer": str(place.layer),
            "sae_set": place.source_set,
            "log_sparsity": None,
            "skipped_indexes": sorted(skipped),
        },
    )


def batches(
    chosen: Chosen, place: Place, examples: int, report: Callable[[int, int, str], None]
) -> Iterator[dict[str, Any]]:
    """The chosen features as SAEDashboard's batches, in order."""
    for start in range(0, len(chosen.numbers), FEATURES_IN_BATCH):
        features: list[dict[str, Any]] = []
        for number in chosen.numbers[start : start + FEATURES_IN_BATCH]:
            features.append(dashboard(chosen.index.feature(number), chosen.index, examples))
            report(start + len(features), len(chosen.numbers), "")
        yield {
            "model_id": place.model_id,
            "layer": place.layer,
            "sae_set": place.source_set,
            "sae_id_suffix": None,
            "features": features,
        }


def dashboard(feature: Feature, index: FeatureIndex, examples: int) -> dict[str, Any]:
    """A feature as SAEDashboard writes it.

    Its histogram has bins of equal width and theirs is of doublings here: the middle of each bin is
    written, so what is drawn of it is right. Activations keep their units, rounded to 3 decimals as
    there.
    """
    used = [number for number, firings in enumerate(feature.histogram) if firings]
    bins = slice(used[0], used[-1] + 1) if used else slice(0, 0)
    middles = [(low + high) / 2 for low, high in pairwise(feature.histogram_edges)]
    positive, negative = feature.positive_logits or (), feature.negative_logits or ()
    window = index.manifest["before"] + 1 + index.manifest["after"]
    return {
        "feature_index": feature.feature,
        "neuron_alignment_indices": [],
        "neuron_alignment_values": [],
        "neuron_alignment_l1": [],
        "correlated_neurons_indices": [],
        "correlated_neurons_l1": [],
        "correlated_neurons_pearson": [],
        "correlated_features_indices": [],
        "correlated_features_l1": [],
        "correlated_features_pearson": [],
        "neg_str": [valid_text(token.text) for token in negative],
        "neg_values": [round(token.logit, 3) for token in negative],
        "pos_str": [valid_text(token.text) for token in positive],
        "pos_values": [round(token.logit, 3) for token in positive],
        "frac_nonzero": feature.density,
        "freq_hist_data_bar_values": [round(value, 3) for value in middles[bins]],
        "freq_hist_data_bar_heights": [float(firings) for firings in feature.histogram[bins]],
        "logits_hist_data_bar_heights": [],
        "logits_hist_data_bar_values": [],
        "n_prompts_total": max(1, index.manifest["rows"] // window),
        "n_tokens_in_prompt": window,
        "dataset": str(index.manifest.get("dataset", "")),
        "decoder_weights_dist": [],
        "activations": list(_activations(feature, examples)),
        "vector": [],
    }


def valid_text(text: str) -> str:
    """The text with U+FFFD for bytes that are not UTF-8, as tokenizers decode them, and for NUL,
    which databases refuse."""
    return (
        text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\0", "\ufffd")
    )


def write_plain_json(path: Path, values: object) -> None:
    """Write compact JSON; raise ValueError for NaN."""
    path.write_text(json.dumps(values, allow_nan=False, separators=(",", ":")), encoding="utf-8")


def _activations(feature: Feature, examples: int) -> Iterator[dict[str, Any]]:
    """The largest, then a sample of each quantile from the highest down."""
    for example in feature.top[:examples]:
        yield _activation(example, _TOP, feature.max_activation, _NOT_OF_ALL)
    few = -(-examples // 4)
    for group in sorted(feature.quantiles, key=lambda group: -group.low):
        for example in group.examples[:few]:
            yield _activation(example, group.low, group.high, group.fraction)


def _activation(
    example: Example, low: int | float, high: int | float, share: float
) -> dict[str, Any]:
    return {
        "bin_min": round(low, 3),
        "bin_max": round(high, 3),
        "bin_contains": share,
        "tokens": [valid_text(text) for text in example.texts],
        "values": [round(value, 3) for value in example.activations],
        "qualifying_token_index": example.peak,
    }
