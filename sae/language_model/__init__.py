"""The language model that an autoencoder reads: finding, loading, checking it, and its sites."""
