"""Sentences that warn of a result or of data that will not do; imports no torch."""

from collections.abc import Mapping

from .manifest import CacheManifest


def cautions(measures: Mapping[str, float | int]) -> list[str]:
    """What is wrong with an autoencoder by its held-out measures, and why it may be so.

    Args:
        measures: as `ReconstructionMetrics.result` gives them.
    """
    fvu, dead = measures["fvu"], measures["dead_share"]
    if fvu <= 1:
        return []
    return [
        f"the held-out FVU is {fvu:.4g}, above 1: the reconstructions are worse than the mean row, "
        "do not use this autoencoder; the learning rate may be too high, the tokens too few, too "
        f"many latents dead (here {dead:.0%}), the rows of another model or site than it was "
        "trained on, or a large constant in some dimensions has taken the precision of the cache's "
        "--dtype"
    ]


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
