"""Hashes of integers, for random choices that do not depend on the order of rows."""

import torch
from jaxtyping import Int
from torch import Tensor


def mixed(x: Int[Tensor, "*X"]) -> Int[Tensor, "*X"]:
    """Hash int64 values to int64 values, one to one (the finalizer of SplitMix64).

    int64 products wrap around in torch, as the method needs.
    """
    x = (x ^ _shifted(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shifted(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A shift to the right that fills with zeros; torch's fills with the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def priorities(latents: Int[Tensor, "E"], rows: Int[Tensor, "E"], seed: int) -> Int[Tensor, "E"]:
    """Random, not negative, and a function of latent, row and seed alone.

    The rows of a latent with the largest priorities are a uniform sample without replacement
    (bottom-k sampling), whatever the order and the batches in which rows come.
    """
    seeded = mixed(torch.tensor(seed + 1, device=rows.device))
    # Latents are spread by an odd factor, so that row and latent cannot change places.
    spread = latents * -0x61C8864680B583EB
    return mixed(mixed(rows + seeded) + spread) & torch.iinfo(torch.int64).max
