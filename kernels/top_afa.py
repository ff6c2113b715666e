"""top-AFA selection: each row keeps the prefix whose norm is nearest a target.

With g = relu(pre) * decoder norm in descending order and c_n = sqrt(g_1^2 + ... + g_n^2), row b
keeps n = argmin_n |c_n - target_b| latents (approximate feature activation, arXiv 2503.24277).
c_n never falls, so n is settled once c_n reaches the target: a `topk` of growing width, for the
rows that still need one, replaces the sort of the whole row.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .backward import row_blocks
from .codes import Codes
from .topk import stable_top_indices

_FIRST_WIDTH = 64


def top_afa_select(
    pre: Float[Tensor, "B F"],
    decoder_norms: Float[Tensor, "F"],
    target: Float[Tensor, "B"],
    max_active: int | None = None,
) -> Codes:
    """Keep of each row the largest latents whose joint norm comes nearest the target.

    Args:
        pre: [B, F] pre-activations.
        decoder_norms: [F] norms of the decoder rows; they weigh the order and the norm.
        target: [B] the norm to match, ||x - b_dec|| in the published method.
        max_active: width M of the codes; the largest count of the batch where it is None.

    Returns:
        Codes with indices and values [B, M] in descending order of value * decoder norm, and
        counts [B]. The nearest prefix wins, the shortest of equally near ones, of equal
        activations the lowest indices; at least one latent is kept, so a row without a positive
        pre-activation has count 1 and value 0. Squares are summed in float64.

    Raises:
        ValueError: a row keeps more than max_active latents; nothing is ever cut.
    """
    with torch.no_grad():
        parts = [
            _select_rows(pre[rows].relu(), decoder_norms, target[rows].double())
            for rows in row_blocks(len(pre))
        ]
        return joined(parts, pre, max_active)


def joined(parts: list[Codes], like: Tensor, max_active: int | None = None) -> Codes:
    """One Codes from those of consecutive rows, padded to the largest count or to max_active.

    Raises:
        ValueError: a row keeps more than max_active latents.
    """
    if not parts:
        empty = torch.zeros(0, max_active or 1, dtype=torch.int64, device=like.device)
        return Codes(empty, empty.to(like.dtype), empty[:, 0])
    largest = max(part.indices.shape[-1] for part in parts)
    width = largest if max_active is None else max_active
    if largest > width:
        raise ValueError(
            f"a row keeps {largest} latents, more than max_active={width}; "
            "raise max_active or leave it out"
        )

    def padded(slots_BM: Tensor) -> Tensor:
        return torch.nn.functional.pad(slots_BM, (0, width - slots_BM.shape[-1]))

    return Codes(
        torch.cat([padded(part.indices) for part in parts]),
        torch.cat([padded(part.values) for part in parts]),
        torch.cat([part.counts for part in parts if part.counts is not None]),
    )


def _select_rows(
    acts_BF: Float[Tensor, "B F"], norms_F: Float[Tensor, "F"], target_B: Float[Tensor, "B"]
) -> Codes:
    # float32 holds the product of two bfloat16 or float16 numbers exactly.
    exact = torch.promote_types(acts_BF.dtype, torch.float32)
    scaled_BF = acts_BF.to(exact) * norms_F.to(exact)
    indices_BM, counts_B = _nearest_prefixes(scaled_BF, target_B)
    used_BM = torch.arange(indices_BM.shape[-1], device=acts_BF.device) < counts_B[:, None]
    values_BM = acts_BF.gather(-1, indices_BM).masked_fill(~used_BM, 0)
    return Codes(indices_BM.masked_fill(values_BM == 0, 0), values_BM, counts_B)


def _nearest_prefixes(
    scaled_BF: Float[Tensor, "B F"], target_B: Float[Tensor, "B"]
) -> tuple[Int[Tensor, "B M"], Int[Tensor, "B"]]:
    """The order of each row as far as its kept prefix, and the prefix's length."""
    n_rows, n_latents = scaled_BF.shape
    counts_B = torch.ones(n_rows, dtype=torch.int64, device=scaled_BF.device)
    indices_BM = counts_B.new_zeros(n_rows, 1)
    pending_P = torch.arange(n_rows, device=scaled_BF.device)
    width = min(_FIRST_WIDTH, n_latents)
    while len(pending_P):
        rows_PF = scaled_BF[pending_P] if len(pending_P) < n_rows else scaled_BF
        top_PM, order_PM = rows_PF.topk(width, dim=-1)
        norm_PM = top_PM.double().square().cumsum(-1).sqrt()
        counts_P = (norm_PM - target_B[pending_P, None]).abs().argmin(-1) + 1
        reached_P = (norm_PM[:, -1] >= target_B[pending_P]) | (top_PM[:, -1] <= 0)
        # One entry beyond the prefix shows whether its last value is tied across the cut.
        settled_P = (reached_P & (counts_P < width)) | torch.tensor(
            width == n_latents, device=scaled_BF.device
        )
        if settled_P.any():
            rows = pending_P[settled_P]
            order_PM[settled_P] = _ties_to_lowest(
                rows_PF[settled_P], top_PM[settled_P], order_PM[settled_P], counts_P[settled_P]
            )
            counts_B[rows] = counts_P[settled_P]
            longest = int(counts_P[settled_P].max())
            if longest > indices_BM.shape[-1]:
                indices_BM = torch.nn.functional.pad(
                    indices_BM, (0, longest - indices_BM.shape[-1])
                )
            indices_BM[rows, :longest] = order_PM[settled_P, :longest]
        pending_P = pending_P[~settled_P]
        width = min(2 * width, n_latents)
    return indices_BM, counts_B


def _ties_to_lowest(
    rows_PF: Float[Tensor, "P F"],
    top_PM: Float[Tensor, "P M"],
    order_PM: Int[Tensor, "P M"],
    counts_P: Int[Tensor, "P"],
) -> Int[Tensor, "P M"]:
    """The order with the lowest indices kept where a prefix ends inside a run of equal values."""
    width = top_PM.shape[-1]
    last_P = top_PM.gather(-1, counts_P[:, None] - 1)[:, 0]
    next_P = top_PM.gather(-1, counts_P[:, None].clamp(max=width - 1))[:, 0]
    tied_P = (last_P == next_P) & (counts_P < width) & (last_P > 0)
    if tied_P.any():
        order_PM[tied_P] = stable_top_indices(rows_PF[tied_P], width)
    return order_PM
