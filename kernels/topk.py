"""Top-k selection: codes = the k largest positive entries of each row of pre-activations.

Without a sort of the row: `torch.topk` of k + 1 entries. The extra entry shows whether the k-th
value is tied across the cut; only such rows are ordered again, so that the lowest index wins.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .codes import Codes


def topk_select(pre: Float[Tensor, "B F"], k: int) -> Codes:
    """Keep the k largest positive pre-activations of each row.

    Args:
        pre: [B, F] pre-activations, any floating dtype, any strides.
        k: latents kept of each row, 1 to F.

    Returns:
        Codes with indices and values [B, k] and counts None. A slot that finds no positive
        pre-activation is unused: index 0, value 0. Of equal values the lowest indices are kept, so
        the result is deterministic. NaN counts as largest and stays visible in the values.

    Raises:
        ValueError: k is not between 1 and F.

    Selection carries no gradient of its own; `sparsteer.kernels.encode` differentiates through it.
    """
    n_latents = pre.shape[-1]
    if not 1 <= k <= n_latents:
        raise ValueError(f"k is {k}, but must lie between 1 and the {n_latents} latents")
    with torch.no_grad():
        values_BK, indices_BK = pre.topk(min(k + 1, n_latents), dim=-1)
        if k < n_latents:
            tied_B = (values_BK[:, k] == values_BK[:, k - 1]) & (values_BK[:, k] > 0)
            values_BK, indices_BK = values_BK[:, :k], indices_BK[:, :k]
            if tied_B.any():
                indices_BK[tied_B] = stable_top_indices(pre[tied_B], k)
        return unused_slots_zeroed(indices_BK, values_BK)


def stable_top_indices(scores_BF: Float[Tensor, "B F"], k: int) -> Tensor:
    """Indices [B, k] of the k largest entries of each row, of equal ones the lowest."""
    return scores_BF.argsort(dim=-1, descending=True, stable=True)[:, :k]


def unused_slots_zeroed(indices_BK: Tensor, values_BK: Tensor) -> Codes:
    """Codes whose slots without a positive value are (index 0, value 0); NaN is kept."""
    unused_BK = values_BK <= 0
    return Codes(indices_BK.masked_fill(unused_BK, 0), values_BK.masked_fill(unused_BK, 0))
