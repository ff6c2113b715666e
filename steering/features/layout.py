"""Names and units in a feature index's folder; nothing here imports torch."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...sae.autoencoder import SparseAutoencoder

FOLDER = "features"
PARTIAL = ".features-partial"
"""Beside it, while it is built."""
STATE = "state"
"""In the latter, what an unfinished pass goes on from."""
MANIFEST = "manifest.json"
STATISTICS = "statistics.parquet"
VOCABULARY = "vocabulary.parquet"
NEIGHBORS = "neighbour"
"""What the names of the arrays of similar latents begin with."""
POSITIVE_LOGITS, NEGATIVE_LOGITS = "promoted", "suppressed"
"""What the names of the arrays of tokens begin with, by logits that a latent raises and lowers."""
LENS = "lens"
"""What those of the tokens begin with that a Jacobian lens reads."""
QUANTILES, NEAR_MISSES, COACTIVATING = "quantile", "near_miss", "coactivating"
"""What the names of the arrays of examples by level, of near misses and of latents that fire
together begin with."""

FORMAT = "sparsteer-features"
VERSION = 3
CHECKED_VERSION = 2
"""The first that has checksums."""
VERSIONS = (1, CHECKED_VERSION, VERSION)
"""That are read; before the last, they have not all that is known of a feature."""

_SCALED_UNIT = (
    "scaled units of the autoencoder: raw activations less their center, times input_scale, so "
    "that their mean squared norm is d_model"
)
_OWN_UNIT = "the units of the library that trained the autoencoder, whose codes are not rescaled"


def unit_of(sae: "SparseAutoencoder") -> str:
    """What an activation is measured in. An autoencoder that another library trained has a scale
    of 1 and no center."""
    unscaled = sae.input_scale == 1 and not sae.input_center.any()
    return _OWN_UNIT if unscaled else _SCALED_UNIT
