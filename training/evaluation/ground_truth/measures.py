"""How well an autoencoder recovers the features of the synthetic benchmark."""

from collections.abc import Callable

import numpy as np
import torch

from ....sae.autoencoder import SparseAutoencoder
from ....sae.metrics import ReconstructionMetrics
from .detection import Detection
from .generator import SyntheticFeatures
from .matching import absolute_cosines, mean_correlation_coefficient

_ROWS_AT_ONCE = 4096


@torch.no_grad()
def measure_recovery(
    sae: SparseAutoencoder,
    features: SyntheticFeatures,
    *,
    rows: int,
    seed: int = 0,
    progress: Callable[[int], None] = lambda rows: None,
) -> dict[str, float]:
    """The measures of SynthSAEBench (arXiv 2602.14687, as SAELens defines them) on fresh rows.

    Args:
        sae: the autoencoder.
        features: what its rows are made of, on its device.
        rows: fresh rows on which firing and reconstruction are measured.
        seed: of these rows.
        progress: is told the rows of each part.

    Returns:
        Of "the latent fires" for "its feature is active", where a latent's feature is that of the
        largest |cosine| with its decoder row, means over all latents of `precision`, `recall` and
        `f1`; a latent that never fires counts 0. `mcc`, the mean |cosine| of latents and features
        matched one to one. `uniqueness`, the number of different features that latents have, over
        the number of latents. `explained_variance`, `l0` and `dead_fraction` (on these rows) as in
        any evaluation, and `true_l0`, the mean number of active features.
    """
    cosines_FN = absolute_cosines(sae.W_dec, features.directions)
    feature_of_F = cosines_FN.argmax(-1)
    detection = Detection(feature_of_F, features.settings.n_features)
    reconstruction = ReconstructionMetrics(sae)
    n_active, left = 0, rows
    generator = features.generator(seed, "measuring")
    while left:
        x_BD, active = features.sample(min(left, _ROWS_AT_ONCE), generator)
        reconstruction.update(x_BD)
        detection.update(sae.encode(x_BD), active.rows, active.columns)
        n_active += len(active.rows)
        left -= len(x_BD)
        progress(len(x_BD))
    measured = reconstruction.result()
    return {
        "f1": float(detection.f1().mean()),
        "precision": float(detection.precision().mean()),
        "recall": float(detection.recall().mean()),
        "mcc": mean_correlation_coefficient(cosines_FN),
        "uniqueness": len(np.unique(feature_of_F.cpu().numpy())) / len(feature_of_F),
        **{name: measured[name] for name in ("explained_variance", "l0", "dead_fraction")},
        "true_l0": n_active / rows,
    }
