"""Names and units in a feature index's folder; nothing here imports torch."""

FOLDER = "features"
MANIFEST = "manifest.json"
STATISTICS = "statistics.parquet"
VOCABULARY = "vocabulary.parquet"
NEIGHBORS = "neighbour"
"""What the names of the arrays of similar latents begin with."""
POSITIVE_LOGITS, NEGATIVE_LOGITS = "promoted", "suppressed"
"""What the names of the arrays of tokens begin with, by logits that a latent raises and lowers."""

FORMAT = "sparsteer-features"
VERSION = 2
VERSIONS = (1, VERSION)
"""That are read; the first has no checksums."""

UNIT = (
    "scaled units of the autoencoder: raw activations less their center, times input_scale, so "
    "that their mean squared norm is d_model"
)
"""What an activation is measured in."""
