"""One-to-one matching of the rows of two dictionaries, by scipy."""

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ..ground_truth.matching import best_assignment, scipy

MOST_DENSE = 4096
"""Rows of the larger dictionary up to which all pairs are looked at: 128 MiB of float64."""

_CANDIDATES = 32
"""The nearest rows of each one, of which it gets one in larger dictionaries."""

_ROWS_AT_ONCE = 1024


@torch.no_grad()
def nearest_rows(
    one_FD: Float[Tensor, "F D"], other_GD: Float[Tensor, "G D"], most: int = 1
) -> tuple[Float[Tensor, "F K"], Int[Tensor, "F K"]]:
    """The largest cosines of each row of one matrix with rows of another, and these rows' numbers.

    Args:
        one_FD, other_GD: rows of any norm; a row of zeros has cosine 0 with all.
        most: how many of each row, the largest first, if there are so many.
    """
    unit_GD = torch.nn.functional.normalize(other_GD.float(), dim=-1)
    parts: list[tuple[Tensor, Tensor]] = []
    for rows_BD in torch.split(one_FD, _ROWS_AT_ONCE):
        unit_BD = torch.nn.functional.normalize(rows_BD.float(), dim=-1)
        found = (unit_BD @ unit_GD.T).topk(min(most, len(unit_GD)), dim=-1)
        parts.append((found.values, found.indices))
    cosines, numbers = zip(*parts, strict=True)
    return torch.cat(cosines), torch.cat(numbers)


def matched_rows(
    one_FD: Float[Tensor, "F D"], other_GD: Float[Tensor, "G D"]
) -> tuple[Float[Tensor, "F"], Int[Tensor, "F"]]:
    """Give each row of one matrix a row of the other, each once, with the largest sum of cosines.

    Up to 4,096 rows all pairs are looked at; of larger matrices only the 32 nearest rows of each
    row of the first, in which the matching is the best one. A row that gets none has cosine 0.

    Returns:
        The cosines, and the numbers of the other rows, -1 where there is none.

    Raises:
        InputError: scipy is not installed.
    """
    if max(len(one_FD), len(other_GD)) <= MOST_DENSE:
        numbers_F = _all_pairs(one_FD, other_GD)
    else:
        numbers_F = _near_pairs(*nearest_rows(one_FD, other_GD, _CANDIDATES), len(other_GD))
    unit_FD = torch.nn.functional.normalize(one_FD.detach().float(), dim=-1)
    unit_GD = torch.nn.functional.normalize(other_GD.detach().float(), dim=-1)
    cosines_F = (unit_FD * unit_GD[numbers_F.clamp(min=0)]).sum(-1)
    return cosines_F.masked_fill(numbers_F < 0, 0), numbers_F


def _all_pairs(one_FD: Tensor, other_GD: Tensor) -> Int[Tensor, "F"]:
    unit_FD = torch.nn.functional.normalize(one_FD.detach().float(), dim=-1)
    unit_GD = torch.nn.functional.normalize(other_GD.detach().float(), dim=-1)
    gain_FG = (unit_FD @ unit_GD.T).double().cpu().numpy()
    return torch.as_tensor(best_assignment(gain_FG))


def _near_pairs(
    cosines_FK: Float[Tensor, "F K"], numbers_FK: Int[Tensor, "F K"], n_others: int
) -> Int[Tensor, "F"]:
    """The best matching in which each row gets one of its candidates or a column of its own that is
    worth nothing, which is always possible."""
    n_rows, n_near = cosines_FK.shape
    own_F1 = rearrange(torch.arange(n_others, n_others + n_rows), "f -> f 1")
    columns = torch.cat([numbers_FK.cpu(), own_F1], dim=-1).reshape(-1).numpy()
    # Entries of 0 would not be stored, so all are raised by 2.
    worth_FK = cosines_FK.double().cpu().clamp(min=-1) + 2
    worth = torch.nn.functional.pad(worth_FK, (0, 1), value=2.0).reshape(-1).numpy()
    starts = np.arange(n_rows + 1) * (n_near + 1)
    shape = (n_rows, n_others + n_rows)
    graph = scipy("scipy.sparse").csr_matrix((worth, columns, starts), shape=shape)
    graph.sort_indices()
    best = scipy("scipy.sparse.csgraph").min_weight_full_bipartite_matching
    rows, found = best(graph, maximize=True)
    numbers = np.full(n_rows, -1, dtype=np.int64)
    numbers[rows] = np.where(found < n_others, found, -1)
    return torch.as_tensor(numbers)
