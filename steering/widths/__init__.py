"""Steering over dictionaries of several widths: what becomes of a concept's latent as it splits."""
