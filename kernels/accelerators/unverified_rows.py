"""The rows that a fused encoder could not verify, encoded again on the GPU without the host.

How many there are only the GPU knows, so nothing here depends on it but the work: the rows are
listed, their pre-activations are taken with tensor cores into a buffer, 16 rows at a time, and the
k largest of each row replace its codes. Programs without a row of the list end at once. If the
buffer holds fewer rows than the batch has, further rounds are launched for the rest of the list,
which is usually empty by then; so every row comes out exact, however many were not verified.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..codes import Codes
from ..dispatch import Block, Pointer, Scalar, constexpr, jit, launch, tl
from ..numerics import ceil_div, next_power_of_2
from ..policy import LONGEST_IN_REGISTERS
from ..topk_keys import emit_whole_row, key_shift, kth_largest, row_keys

_ROWS, _LATENTS, _BYTES_OF_WIDTH = 16, 128, 128  # a tile of the product; wider rows in turns
_TILES_OF_ROWS_AT_ONCE = 2
_SELECTIONS_AT_ONCE = 512


@jit
def _list_kernel(
    verified_ptr: Pointer,  # [B] bool
    rows_ptr: Pointer,  # [B] (out) the rows that are not, ascending
    count_ptr: Pointer,  # [1] (out) how many
    B: Scalar,
    EMIT: constexpr,
) -> None:
    count = tl.program_id(0)  # 0
    for start in range(0, B, EMIT):
        rows = start + tl.arange(0, EMIT)
        wanted = tl.load(verified_ptr + rows, mask=rows < B, other=1) == 0
        places = count + tl.cumsum(wanted.to(tl.int32), 0) - 1
        tl.store(rows_ptr + places, rows, mask=wanted)
        count += tl.sum(wanted.to(tl.int32), 0)
    tl.store(count_ptr, count)


@jit
def _products_kernel(
    x_ptr: Pointer,  # [B, D] centered rows
    weights_ptr: Pointer,  # [F, D]
    bias_ptr: Pointer,  # [F]
    rows_ptr: Pointer,  # [B] listed rows
    count_ptr: Pointer,  # [1]
    pre_ptr: Pointer,  # [C, F] (out) pre-activations of C listed rows from the first on
    first: Scalar,
    C: Scalar,
    F: Scalar,
    TILES: Scalar,
    D: constexpr,
    ROWS: constexpr,
    LATENTS: constexpr,
    BLOCK_D: constexpr,
) -> None:
    n_rows = tl.minimum(tl.load(count_ptr) - first, C)
    latents = tl.program_id(0) * LATENTS + tl.arange(0, LATENTS)
    in_latents = latents < F
    inner = tl.arange(0, BLOCK_D)
    bias = tl.load(bias_ptr + latents, mask=in_latents, other=0.0).to(tl.float32)
    for number in range(tl.program_id(1), tl.cdiv(n_rows, ROWS), TILES):
        places = number * ROWS + tl.arange(0, ROWS)
        in_rows = places < n_rows
        rows = tl.load(rows_ptr + first + places, mask=in_rows, other=0).to(tl.int64)
        pre = tl.zeros((ROWS, LATENTS), tl.float32)
        for start in range(0, D, BLOCK_D):
            in_width = start + inner < D
            x = tl.load(
                x_ptr + rows[:, None] * D + (start + inner)[None, :],
                mask=in_rows[:, None] & in_width[None, :],
                other=0.0,
            )
            weights = tl.load(
                weights_ptr + latents.to(tl.int64)[None, :] * D + (start + inner)[:, None],
                mask=in_latents[None, :] & in_width[:, None],
                other=0.0,
            )
            pre = tl.dot(x, weights, pre, input_precision="tf32")
        pre += bias[None, :]
        tl.store(
            pre_ptr + places.to(tl.int64)[:, None] * F + latents[None, :],
            pre.to(pre_ptr.dtype.element_ty),
            mask=in_rows[:, None] & in_latents[None, :],
        )


@jit
def _kth_largest_in_memory(
    pre_ptr: Pointer,  # [F] one row
    F: Scalar,
    K: Scalar,
    SHIFT: constexpr,
    EMIT: constexpr,
) -> tuple[Scalar, Scalar]:
    """`kth_largest` of a row that is read anew for each turn."""
    highest = tl.zeros([EMIT], tl.int32)
    for start in range(0, F, EMIT):
        highest = tl.maximum(highest, _keys_from(pre_ptr, start, F, SHIFT, EMIT))
    high = tl.max(highest, 0)
    low = high * 0
    above = low
    while low < high:
        middle = high - (high - low) // 2
        counts = tl.zeros([EMIT], tl.int32)
        for start in range(0, F, EMIT):
            counts += (_keys_from(pre_ptr, start, F, SHIFT, EMIT) >= middle).to(tl.int32)
        count = tl.sum(counts, 0)
        if count > K:
            low = middle
        else:
            high = middle - 1
            above = count
            if count == K:
                low = high
    return low, tl.where(low > 0, K - above, 0)


@jit
def _keys_from(
    pre_ptr: Pointer, start: Scalar, F: Scalar, SHIFT: constexpr, EMIT: constexpr
) -> Block:
    columns = start + tl.arange(0, EMIT)
    return row_keys(pre_ptr, pre_ptr, columns, columns < F, False, SHIFT)


@jit
def _select_kernel(
    pre_ptr: Pointer,  # [C, F] pre-activations of C listed rows from the first on
    rows_ptr: Pointer,  # [B] listed rows
    count_ptr: Pointer,  # [1]
    indices_ptr: Pointer,  # [B, K] (out) of listed rows
    values_ptr: Pointer,  # [B, K] (out) of listed rows
    first: Scalar,
    C: Scalar,
    F: Scalar,
    K: Scalar,
    SHIFT: constexpr,
    BLOCK_F: constexpr,  # 0: a row does not fit in registers
    EMIT: constexpr,
) -> None:
    n_rows = tl.minimum(tl.load(count_ptr) - first, C)
    for place in range(tl.program_id(0), n_rows, tl.num_programs(0)):
        row_ptr = pre_ptr + (n_rows * 0 + place).to(tl.int64) * F
        if BLOCK_F > 0:
            columns = tl.arange(0, BLOCK_F)
            keys = row_keys(row_ptr, row_ptr, columns, columns < F, False, SHIFT)
            threshold, ties = kth_largest(keys, K)
        else:
            threshold, ties = _kth_largest_in_memory(row_ptr, F, K, SHIFT, EMIT)
        row = tl.load(rows_ptr + first + place).to(tl.int64)
        emit_whole_row(
            row_ptr,
            indices_ptr + row * K,
            values_ptr + row * K,
            F,
            K,
            threshold,
            ties,
            SHIFT,
            EMIT,
        )


def encode_unverified_(
    codes: Codes,
    verified: Bool[Tensor, "B"],
    centered: Float[Tensor, "B D"],
    W_enc: Float[Tensor, "F D"],
    b_enc: Float[Tensor, "F"],
    rows_at_once: int,
) -> None:
    """Replace the codes of rows that are not verified, in place, by those of `topk_select`.

    Waits for nothing. Not run on a GPU yet.

    Args:
        codes: [B, k] contiguous.
        verified: which rows of the codes are right.
        centered: [B, D] rows less b_dec.
        W_enc, b_enc: the encoder.
        rows_at_once: rows of pre-activations that are held in memory.
    """
    (n_rows, D), (n_latents, k) = centered.shape, (len(W_enc), codes.indices.shape[1])
    if not n_rows:
        return
    rows = torch.empty(n_rows, dtype=torch.int32, device=centered.device)
    count = rows.new_empty(1)
    launch(
        _list_kernel,
        (1,),
        verified_ptr=verified,
        rows_ptr=rows,
        count_ptr=count,
        B=n_rows,
        EMIT=1024,
        num_warps=8,
    )
    at_once = min(n_rows, rows_at_once)
    pre = centered.new_empty(at_once, n_latents)
    in_registers = n_latents <= LONGEST_IN_REGISTERS
    tiles = min(_TILES_OF_ROWS_AT_ONCE, ceil_div(at_once, _ROWS))
    for first in range(0, n_rows, at_once):
        listed = {"rows_ptr": rows, "count_ptr": count, "pre_ptr": pre}
        places = {"first": first, "C": at_once, "F": n_latents}
        launch(
            _products_kernel,
            (ceil_div(n_latents, _LATENTS), tiles),
            x_ptr=centered.contiguous(),
            weights_ptr=W_enc.contiguous(),
            bias_ptr=b_enc.contiguous(),
            TILES=tiles,
            D=D,
            ROWS=_ROWS,
            LATENTS=_LATENTS,
            BLOCK_D=_BYTES_OF_WIDTH // centered.element_size(),
            num_warps=4,
            **listed,
            **places,
        )
        launch(
            _select_kernel,
            (min(at_once, _SELECTIONS_AT_ONCE),),
            indices_ptr=codes.indices,
            values_ptr=codes.values,
            K=k,
            SHIFT=key_shift(centered.dtype),
            BLOCK_F=max(16, next_power_of_2(n_latents)) if in_registers else 0,
            EMIT=512 if in_registers else 1024,
            num_warps=16,
            **listed,
            **places,
        )
