"""top-AFA selection: each row keeps the prefix whose norm is nearest a target.

With g = relu(pre) * decoder norm in descending order and c_n = sqrt(g_1^2 + ... + g_n^2), row b
keeps n = argmin_n |c_n - target_b| latents (approximate feature activation, arXiv 2503.24277).
c_n never falls, so n is settled once c_n reaches the target. No row is sorted whole: a threshold is
found first, on a CPU by compiled loops (`top_afa_rows`), on a GPU by `top_afa_kernels`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .capacity import SlotCapacity
from .codes import Codes, join_codes
from .dispatch import uses_triton
from .numerics import at_least_float32, row_blocks
from .top_afa_kernels import launch_top_afa

_ROWS_AT_ONCE = 512


def top_afa_select(
    pre: Float[Tensor, "B F"],
    decoder_norms: Float[Tensor, "F"],
    target: Float[Tensor, "B"],
    max_active: int | None = None,
    capacity: SlotCapacity | None = None,
) -> Codes:
    """Keep of each row the largest latents whose joint norm comes nearest the target.

    Args:
        pre: [B, F] pre-activations.
        decoder_norms: [F] norms of the decoder rows; they weigh the order and the norm.
        target: [B] the norm to match, ||x - b_dec|| in the published method.
        max_active: width M of the codes; the largest count of the batch where it is None.
        capacity: of one part, in place of that largest count where Triton runs; a row that needs
            more has NaN for all its values.

    Returns:
        Codes with indices and values [B, M] and counts [B]; slots are in descending order of
        value * decoder norm on a CPU, of rising index on a GPU. The nearest prefix wins, the
        shortest of equally near ones, of equal activations the lowest indices; at least one latent
        is kept, so a row without a positive pre-activation has count 1 and value 0. Squares are
        summed in float64.

    Raises:
        ValueError: a row keeps more than max_active latents, for nothing is ever cut; or the norms
            are not [F], or the target is not [B].
    """
    if decoder_norms.shape != pre.shape[1:] or target.shape != pre.shape[:1]:
        raise ValueError(
            f"pre-activations of shape {list(pre.shape)} do not suit decoder norms of shape "
            f"{list(decoder_norms.shape)} and a target of shape {list(target.shape)}"
        )
    with torch.no_grad():
        if uses_triton(pre):
            pre = pre if pre.stride(1) == 1 else pre.contiguous()
            parts = launch_top_afa(pre, decoder_norms.contiguous(), target.contiguous(), capacity)
            return join_codes(parts, pre, max_active)
        select = _select_on_cpu if pre.device.type == "cpu" else _select_by_sort
        # In pieces: one row that keeps thousands of latents makes its whole piece as wide.
        parts = [
            select(pre[rows], decoder_norms, target[rows])
            for rows in row_blocks(len(pre), _ROWS_AT_ONCE)
        ]
        return join_codes(parts, pre, max_active)


def _select_on_cpu(
    pre_BF: Float[Tensor, "B F"], norms_F: Float[Tensor, "F"], target_B: Float[Tensor, "B"]
) -> Codes:
    from .compiled import over_rows
    from .top_afa_rows import find_thresholds, keep_prefixes

    # float32 holds the product of two bfloat16 or float16 numbers exactly.
    exact = at_least_float32(pre_BF.dtype)
    rows_BF = pre_BF.to(exact).contiguous().numpy()
    arguments = rows_BF, norms_F.to(exact).contiguous().numpy(), target_B.double().numpy()
    least_B = pre_BF.new_empty(len(pre_BF), dtype=exact)
    widths_B, counts_B = torch.ones(2, len(pre_BF), dtype=torch.int64)
    over_rows(find_thresholds, len(pre_BF), *arguments, least_B.numpy(), widths_B.numpy())
    width = int(widths_B.max())
    indices_BM = torch.empty(len(pre_BF), width, dtype=torch.int64)
    values_BM = torch.empty(len(pre_BF), width, dtype=exact)
    slots = indices_BM.numpy(), values_BM.numpy(), counts_B.numpy()
    over_rows(keep_prefixes, len(pre_BF), *arguments, least_B.numpy(), *slots)
    return _cut(Codes(indices_BM, values_BM.to(pre_BF.dtype), counts_B))


def _select_by_sort(
    pre_BF: Float[Tensor, "B F"], norms_F: Float[Tensor, "F"], target_B: Float[Tensor, "B"]
) -> Codes:
    """On other devices, and a GPU without its kernels."""
    acts_BF = pre_BF.relu()
    scaled_BF = acts_BF.to(at_least_float32(pre_BF.dtype)) * norms_F
    order_BF = scaled_BF.argsort(dim=-1, descending=True, stable=True)
    norm_BF = scaled_BF.gather(-1, order_BF).double().square_().cumsum(-1).sqrt_()
    counts_B = (norm_BF - target_B[:, None]).abs_().argmin(-1) + 1
    used_BF = torch.arange(pre_BF.shape[-1], device=pre_BF.device) < counts_B[:, None]
    values_BF = acts_BF.gather(-1, order_BF) * used_BF
    return _cut(Codes(order_BF.masked_fill(values_BF == 0, 0), values_BF, counts_B))


def _cut(codes: Codes) -> Codes:
    """As wide as the longest prefix."""
    assert codes.counts is not None
    width = int(codes.counts.max())
    slots = (codes.indices[:, :width].contiguous(), codes.values[:, :width].contiguous())
    return Codes(*slots, codes.counts)
