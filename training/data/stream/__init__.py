"""Activations straight from the language model, for corpora too large to store."""
