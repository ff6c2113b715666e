"""Sentences that warn of a result or of data that will not do; imports no torch."""

from collections.abc import Mapping
from typing import Any

from ..sae.common.wording import counted
from .data.cache.manifest import CacheManifest

FEW_ROWS = 5_000
FEW_CLUSTERS = 30
"""Documents or contexts below which a standard error over them is itself rough."""


def cautions(measures: Mapping[str, float | int]) -> list[str]:
    """What is wrong with an autoencoder by its held-out measures, and why it may be so.

    Args:
        measures: as `ReconstructionMetrics.result` gives them.
    """
    fvu, dead = measures["fvu"], measures["dead_fraction"]
    if fvu <= 1:
        return []
    return [
        f"the held-out FVU is {fvu:.4g}, above 1: the reconstructions are worse than the mean row, "
        "do not use this autoencoder; the learning rate may be too high, the tokens too few, too "
        f"many latents dead (here {dead:.0%}), the rows of another model or site than it was "
        "trained on, or a large constant in some dimensions has taken the precision of the cache's "
        "--dtype"
    ]


def cautions_of_few(
    rows: int, documents: int, language_model: Mapping[str, Any] | None
) -> list[str]:
    """What held-out measures cannot tell because they rest on little.

    Args:
        rows, documents: how many held-out rows were measured, and of how many documents they are.
        language_model: the figures with the autoencoder in the language model, with `contexts`.
    """
    found: list[str] = []
    if rows < FEW_ROWS:
        found.append(
            f"on only {counted(rows, 'held-out row')} rare latents count as dead; measure "
            "more --rows, or cache more tokens"
        )
    if documents < FEW_CLUSTERS:
        found.append(
            f"the held-out rows are of only {counted(documents, 'document')}, so that the FVU and "
            "its standard error are rough; cache more documents"
        )
    contexts = FEW_CLUSTERS if language_model is None else language_model["contexts"]
    if contexts < FEW_CLUSTERS:
        found.append(
            f"the losses are of only {counted(contexts, 'context')}, so that they and their "
            "standard errors are rough; give more --contexts, or cache more documents"
        )
    return found


def why_not_trainable(path: str, manifest: CacheManifest) -> str | None:
    """Why no autoencoder can be trained on a cache, None if one can."""
    if manifest.held_out_rows < 2:
        n_rows = "only one held-out row" if manifest.held_out_rows else "no held-out rows"
        return f"{path} has {n_rows}; cache more documents, or with a higher --held-out-fraction"
    if manifest.held_out_rows == manifest.rows:
        return (
            f"{path} has no rows to train on, all being held out; cache more documents, or with a "
            "lower --held-out-fraction"
        )
    return None
