"""How often made-up features are active: as wanted, as drawn, and as parents and siblings leave it.

A feature in a tree is drawn first, then left only where its parent is active and none of its
siblings wins.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .config import FeatureSettings

_QUADRATURE = 32
"""Nodes with which a polynomial of degree 63 in the siblings is integrated exactly."""


def levels(settings: FeatureSettings) -> Iterator[tuple[slice, slice]]:
    """The features of each level of the trees that is a parents' one, and their children, those of
    one parent beside each other, from the roots down."""
    ends = settings.level_ends
    begins = (0, *ends)
    for level in range(1, len(ends)):
        yield slice(begins[level - 1], ends[level - 1]), slice(begins[level], ends[level])


def wanted_rates(settings: FeatureSettings) -> Float[Tensor, "N"]:
    """The rates that fall with the rank, stretched so that the ends are those of the settings."""
    falling_N = torch.arange(1, settings.n_features + 1).double() ** -settings.exponent
    if settings.n_features == 1:
        return torch.tensor([settings.max_rate])
    share_N = (falling_N - falling_N[-1]) / (falling_N[0] - falling_N[-1])
    return (settings.min_rate + (settings.max_rate - settings.min_rate) * share_N).float()


def drawn_rates(settings: FeatureSettings, rates_N: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """The rates with which features are drawn, as published: of a child its wanted rate over its
    parent's, times one more than the siblings expected beside it where the parent is active.

    This makes up for a part of what parents and siblings take away: at the size 16k, 59 features
    are wanted on a row, and 34 are left.
    """
    drawn_N = rates_N.double()
    for parents, children in levels(settings):
        given_PC = rates_N[children].double().view(-1, settings.branching)
        given_PC = given_PC / rates_N[parents, None].double()
        rivals_PC = given_PC.sum(-1, keepdim=True) - given_PC
        drawn_N[children] = (given_PC * (1 + rivals_PC)).flatten()
    return drawn_N.clamp(max=1).float()


def rates_left(settings: FeatureSettings, drawn_N: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """The fraction of rows on which each feature is active in the end, of independent ones.

    A child that is drawn with the rate q_i, and K of its siblings with it, wins with the
    probability E[1 / (1 + K)], which is the integral from 0 to 1 of the product of 1 - q_j + q_j t
    over the siblings j.

    Args:
        settings: the trees.
        drawn_N: fraction of rows on which each is drawn with a positive strength.

    Returns:
        The rates in float64. Those of correlated features differ somewhat.
    """
    left_N = drawn_N.double()
    nodes_Q, weights_Q = np.polynomial.legendre.leggauss(_QUADRATURE)
    t_Q = torch.as_tensor((nodes_Q + 1) / 2).to(left_N)
    dt_Q = torch.as_tensor(weights_Q / 2).to(left_N)
    for parents, children in levels(settings):
        own_PC = left_N[children].view(-1, settings.branching)
        lets_PCQ = 1 - own_PC[..., None] * (1 - t_Q)
        siblings = range(settings.branching)
        wins = [lets_PCQ[:, [j for j in siblings if j != i]].prod(1) @ dt_Q for i in siblings]
        left_N[children] = (own_PC * torch.stack(wins, 1) * left_N[parents, None]).flatten()
    return left_N
