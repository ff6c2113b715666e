"""What each latent means: examples, statistics, search, and the picks of a person."""
