"""Evaluation of a trained autoencoder on held-out text."""
