"""Runs of equal neighboring keys."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def is_first(keys_E: Int[Tensor, "E"]) -> Bool[Tensor, "E"]:
    """Where a key differs from the one before."""
    first = torch.ones_like(keys_E, dtype=torch.bool)
    first[1:] = keys_E[1:] != keys_E[:-1]
    return first


def run_numbers(keys_E: Int[Tensor, "E"]) -> Int[Tensor, "E"]:
    """Number the runs from 0."""
    return is_first(keys_E).cumsum(0) - 1


def run_lengths(keys_E: Int[Tensor, "E"]) -> tuple[Int[Tensor, "G"], Int[Tensor, "G"]]:
    """The key of each run, and how long it is."""
    starts_G = is_first(keys_E).nonzero()[:, 0]
    ends_G = torch.cat([starts_G[1:], starts_G.new_full((min(len(keys_E), 1),), len(keys_E))])
    return keys_E[starts_G], ends_G - starts_G
