"""The codes of top-AFA on a GPU, once it is known where every row is cut."""

import torch
from torch import Tensor

from .capacity import SlotCapacity, presumed_widths, widths_for
from .codes import Codes
from .dispatch import Pointer, Scalar, architecture, constexpr, jit, launch, tl
from .tiles import tile
from .topk_keys import emit_row
from .unused_slots import nan_row


@jit
def _afa_emit_kernel(
    pre_ptr: Pointer,  # [B, F]
    norms_ptr: Pointer,  # [F]
    groups_ptr: Pointer,  # [B, G], read if LISTED
    n_groups_ptr: Pointer,  # [B], read if LISTED
    counts_ptr: Pointer,  # [B] kept latents
    cuts_ptr: Pointer,  # [B, 2]
    indices_ptr: Pointer,  # [B, M] (out)
    values_ptr: Pointer,  # [B, M] (out)
    stride_pre: Scalar,
    F: Scalar,
    G: Scalar,
    M: Scalar,
    LISTED: constexpr,
    GROUP: constexpr,
    EMIT: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    if LISTED:
        n_positions = tl.load(n_groups_ptr + row) * GROUP
    else:
        n_positions = F
    indices_ptr += row * M
    values_ptr += row * M
    if tl.load(counts_ptr + row) > M:
        nan_row(indices_ptr, values_ptr, M, EMIT)
    else:
        emit_row(
            pre_ptr=pre_ptr + row * stride_pre,
            norms_ptr=norms_ptr,
            groups_ptr=groups_ptr + row * G,
            n_positions=n_positions,
            indices_ptr=indices_ptr,
            values_ptr=values_ptr,
            F=F,
            M=M,
            threshold=tl.load(cuts_ptr + row * 2),
            ties=tl.load(cuts_ptr + row * 2 + 1),
            SCALED=True,
            LISTED=LISTED,
            SHIFT=0,
            GROUP=GROUP,
            EMIT=EMIT,
        )


def emit_cut_rows(
    pre: Tensor,
    norms: Tensor,
    counts: Tensor,
    cuts: Tensor,
    listed: tuple[Tensor, Tensor, int],
    capacity: SlotCapacity | None,
) -> Codes:
    """The codes above the cuts; listed: groups, how many each row has, and their width, or 0."""
    groups, n_groups, group = listed
    n_rows, n_latents = pre.shape
    sizes = tile("select_group", architecture(pre), F=n_latents)
    (M,) = presumed_widths(capacity) or widths_for([counts], capacity)
    indices = torch.empty(n_rows, M, dtype=torch.int64, device=pre.device)
    values = torch.empty(n_rows, M, dtype=pre.dtype, device=pre.device)
    launch(
        _afa_emit_kernel,
        (n_rows,),
        pre_ptr=pre,
        norms_ptr=norms,
        groups_ptr=groups,
        n_groups_ptr=n_groups,
        counts_ptr=counts,
        cuts_ptr=cuts,
        indices_ptr=indices,
        values_ptr=values,
        stride_pre=pre.stride(0),
        F=n_latents,
        G=groups.shape[1],
        M=M,
        LISTED=group > 0,
        GROUP=group,
        EMIT=sizes["EMIT"],
        num_warps=sizes["num_warps"],
    )
    return Codes(indices, values, counts)
