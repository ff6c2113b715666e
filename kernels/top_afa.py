"""top-AFA selection: each row keeps the prefix whose norm is nearest a target.

With g = relu(pre) * decoder norm in descending order and c_n = sqrt(g_1^2 + ... + g_n^2), row b
keeps n = argmin_n |c_n - target_b| latents (approximate feature activation, arXiv 2503.24277).
c_n never falls, so n is settled once c_n reaches the target. PyTorch: as many largest entries as a
few of the rows need, then twice as many for the rows that need more, replace the sort of all.
On a GPU a threshold for each row does (`top_afa_kernels`).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .capacity import SlotCapacity
from .codes import Codes, join_codes
from .dispatch import uses_triton
from .numerics import at_least_float32
from .top_afa_kernels import launch_top_afa
from .topk import largest, stable_top_indices

_FIRST_WIDTH = 64
_MARGIN = 4
_ROWS_TRIED = 16
_ROWS_AT_ONCE = 128  # larger blocks of scaled pre-activations come anew from the system each time


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
        ValueError: a row keeps more than max_active latents; nothing is ever cut.
    """
    with torch.no_grad():
        if uses_triton(pre):
            pre = pre if pre.stride(1) == 1 else pre.contiguous()
            parts = launch_top_afa(pre, decoder_norms.contiguous(), target.contiguous(), capacity)
            return join_codes(parts, pre, max_active)
        return join_codes(_select_in_pieces(pre, decoder_norms, target), pre, max_active)


def _select_in_pieces(
    pre_BF: Float[Tensor, "B F"], norms_F: Float[Tensor, "F"], target_B: Float[Tensor, "B"]
) -> list[Codes]:
    # float32 holds the product of two bfloat16 or float16 numbers exactly.
    exact = at_least_float32(pre_BF.dtype)
    parts: list[Codes] = []
    width = 0
    for start in range(0, len(pre_BF), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        scaled_BF, target = pre_BF[rows].to(exact) * norms_F.to(exact), target_B[rows].double()
        # As many as the longest prefix of the rows before, or of a few rows of the first piece.
        width = width or _longest_prefix(scaled_BF[:_ROWS_TRIED], target[:_ROWS_TRIED])
        indices_BM, counts_B = _nearest_prefixes(scaled_BF, target, width + _MARGIN)
        width = indices_BM.shape[-1]
        used_BM = torch.arange(width, device=pre_BF.device) < counts_B[:, None]
        values_BM = pre_BF[rows].gather(-1, indices_BM).relu_().masked_fill_(~used_BM, 0)
        parts.append(Codes(indices_BM.masked_fill(values_BM == 0, 0), values_BM, counts_B))
    return parts


def _longest_prefix(scaled_BF: Tensor, target_B: Tensor) -> int:
    return int(_nearest_prefixes(scaled_BF, target_B, _FIRST_WIDTH)[1].max())


def _nearest_prefixes(
    scaled_BF: Float[Tensor, "B F"], target_B: Float[Tensor, "B"], width: int
) -> tuple[Int[Tensor, "B M"], Int[Tensor, "B"]]:
    """The order of each row as far as its kept prefix, and the prefix's length.

    Looks at the `width` largest entries first, and at twice as many of the rows that need more.
    """
    n_latents = scaled_BF.shape[-1]
    width = min(width, n_latents)
    order_BM, counts_B, settled_B = _prefixes_within(scaled_BF, target_B, width)
    pending = (~settled_B).nonzero()[:, 0]
    while len(pending):
        order_BM = torch.nn.functional.pad(order_BM, (0, min(width, n_latents - width)))
        width = order_BM.shape[-1]
        order_BM[pending], counts_B[pending], settled_P = _prefixes_within(
            scaled_BF[pending], target_B[pending], width
        )
        pending = pending[~settled_P]
    return order_BM[:, : int(counts_B.max())], counts_B


def _prefixes_within(
    scaled_BF: Float[Tensor, "B F"], target_B: Float[Tensor, "B"], width: int
) -> tuple[Int[Tensor, "B M"], Int[Tensor, "B"], Bool[Tensor, "B"]]:
    """Order, length of the prefix, and whether it is settled by the row's `width` largest."""
    top_BM, order_BM = largest(scaled_BF, width)
    top_BM.clamp_(min=0)  # relu, where it matters
    norm_BM = top_BM.double().square_().cumsum(-1).sqrt_()
    counts_B = (norm_BM - target_B[:, None]).abs_().argmin(-1) + 1
    reached_B = (norm_BM[:, -1] >= target_B) | (top_BM[:, -1] <= 0)
    last_B, next_B = (
        top_BM.gather(-1, (counts_B[:, None] + beyond).clamp(max=width - 1))[:, 0]
        for beyond in (-1, 0)
    )
    # One entry beyond the prefix shows whether its last value is tied across the cut.
    tied_B = (last_B == next_B) & (counts_B < width) & (last_B > 0)
    if tied_B.any():
        order_BM[tied_B] = stable_top_indices(scaled_BF[tied_B], width)
    all_seen = width == scaled_BF.shape[-1]
    return order_BM, counts_B, (reached_B & (counts_B < width)) | all_seen
