"""Autoencoders on made-up activations, whose features are known: SynthSAEBench (2602.14687)."""
