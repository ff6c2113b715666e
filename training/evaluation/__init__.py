"""Evaluation of trained autoencoders, on held-out text and on features that are known."""
