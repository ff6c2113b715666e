"""The encoder's product and its top-k selection in one: no pre-activation reaches the GPU's memory.

While a tile of pre-activations is in registers, the KEPT largest of every GROUP neighboring
columns are stored as packed keys: the bits of relu(pre) in float32, their lowest log2(GROUP) bits
replaced by the column's place in its group. A second kernel selects the k largest keys of a row.

Every row is verified: it is certainly right if no group's last stored key is among the selected
(then no key that was not stored can be), and if the cut falls between two different keys (else the
replaced bits would decide). The few rows that fail fall back to the exact path. Values are within
2^-18 (GROUP 32) or 2^-17 (64) of the product's, relatively, which is far below the rounding of the
bfloat16, float16 and TF32 products that this path serves. `policy.encode_plan` says when it is
worth it.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..codes import Codes
from ..dispatch import Pointer, Scalar, architecture, constexpr, jit, launch, tl
from ..numerics import ceil_div, next_power_of_2
from ..tiles import tile
from ..topk_keys import kth_largest, sortable_key

_MOST_KEYS_AT_ONCE = 1 << 26


@jit
def _encode_keys_kernel(
    x_ptr: Pointer,  # [B, D] centered rows
    weights_ptr: Pointer,  # [F, D]
    bias_ptr: Pointer,  # [F]
    keys_ptr: Pointer,  # [B, G, KEPT] (out)
    B: Scalar,
    F: Scalar,
    G: Scalar,
    D: constexpr,
    BLOCK_B: constexpr,
    BLOCK_F: constexpr,
    BLOCK_D: constexpr,
    GROUP: constexpr,
    KEPT: constexpr,
    SUPER: constexpr,
) -> None:
    # Programs that run together share SUPER blocks of rows, so that both operands stay in L2.
    program = tl.program_id(0)
    blocks_b = tl.cdiv(B, BLOCK_B)
    width = SUPER * tl.cdiv(F, BLOCK_F)
    first = program // width * SUPER
    height = tl.minimum(blocks_b - first, SUPER)
    block_b = first + program % width % height
    block_f = program % width // height
    rows = block_b * BLOCK_B + tl.arange(0, BLOCK_B)
    latents = block_f * BLOCK_F + tl.arange(0, BLOCK_F)
    inner = tl.arange(0, BLOCK_D)
    in_rows, in_latents = rows < B, latents < F
    x_ptrs = x_ptr + rows.to(tl.int64)[:, None] * D + inner[None, :]
    weight_ptrs = weights_ptr + latents.to(tl.int64)[None, :] * D + inner[:, None]
    pre = tl.zeros((BLOCK_B, BLOCK_F), tl.float32)
    for start in range(0, D, BLOCK_D):
        if D % BLOCK_D == 0:
            x = tl.load(x_ptrs, mask=in_rows[:, None], other=0.0)
            weights = tl.load(weight_ptrs, mask=in_latents[None, :], other=0.0)
        else:
            in_width = start + inner < D
            x = tl.load(x_ptrs, mask=in_rows[:, None] & in_width[None, :], other=0.0)
            weights = tl.load(weight_ptrs, mask=in_latents[None, :] & in_width[:, None], other=0.0)
        pre = tl.dot(x, weights, pre, input_precision="tf32")
        x_ptrs += BLOCK_D
        weight_ptrs += BLOCK_D
    pre += tl.load(bias_ptr + latents, mask=in_latents, other=0.0).to(tl.float32)[None, :]
    place = tl.arange(0, BLOCK_F) % GROUP
    keys = (sortable_key(pre, 0) & -GROUP) | (GROUP - 1 - place)[None, :]
    keys = tl.where(in_latents[None, :], keys, -1)
    keys = tl.reshape(keys, (BLOCK_B, BLOCK_F // GROUP, GROUP))
    groups = block_f * (BLOCK_F // GROUP) + tl.arange(0, BLOCK_F // GROUP)
    key_ptrs = keys_ptr + (rows.to(tl.int64)[:, None] * G + groups[None, :]) * KEPT
    inside = in_rows[:, None] & (groups < G)[None, :]
    for kept in tl.static_range(KEPT):
        largest = tl.max(keys, axis=2)
        tl.store(key_ptrs + kept, largest, mask=inside)
        keys = tl.where(keys == largest[:, :, None], -1, keys)


@jit
def _select_keys_kernel(
    keys_ptr: Pointer,  # [B, N] packed keys, KEPT of each group in turn
    indices_ptr: Pointer,  # [B, K] (out)
    values_ptr: Pointer,  # [B, K] (out)
    verified_ptr: Pointer,  # [B] (out) bool
    N: Scalar,
    K: Scalar,
    GROUP: constexpr,
    KEPT: constexpr,
    BLOCK: constexpr,
    EMIT: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    keys_ptr += row * N
    places = tl.arange(0, BLOCK)
    scores = tl.load(keys_ptr + places, mask=places < N, other=0)
    scores = tl.where(scores > 0, scores & -GROUP, 0)
    threshold, ties = kth_largest(scores, K)
    full = (scores > threshold) & (places % KEPT == KEPT - 1)
    verified = (ties == 0) & (tl.max(full.to(tl.int32), 0) == 0)
    tl.store(verified_ptr + row, verified)
    used = threshold * 0
    for start in range(0, N, EMIT):
        positions = start + tl.arange(0, EMIT)
        keys = tl.load(keys_ptr + positions, mask=positions < N, other=0)
        bits = tl.where(keys > 0, keys & -GROUP, 0)
        kept = bits > threshold
        slots = used + tl.cumsum(kept.to(tl.int32), 0) - 1
        kept = kept & (slots < K)
        columns = positions // KEPT * GROUP + (GROUP - 1 - (keys & (GROUP - 1)))
        # The middle of what the replaced bits could have been; infinity and NaN as they are.
        middle = tl.where(bits < 0x7F800000, bits + GROUP // 2, bits)
        values = middle.to(tl.float32, bitcast=True)
        tl.store(indices_ptr + row * K + slots, columns.to(tl.int64), mask=kept)
        tl.store(values_ptr + row * K + slots, values.to(values_ptr.dtype.element_ty), mask=kept)
        used += tl.sum(kept.to(tl.int32), 0)
    for start in range(0, K, EMIT):
        slots = start + tl.arange(0, EMIT)
        unused = (slots >= used) & (slots < K)
        zeros = tl.zeros([EMIT], tl.int64)
        tl.store(indices_ptr + row * K + slots, zeros, mask=unused)
        tl.store(values_ptr + row * K + slots, zeros.to(values_ptr.dtype.element_ty), mask=unused)


def fused_topk(
    centered: Float[Tensor, "B D"], W_enc: Float[Tensor, "F D"], b_enc: Float[Tensor, "F"], k: int
) -> tuple[Codes, Bool[Tensor, "B"]]:
    """Codes of each row, and which rows are verified; codes of others may be wrong."""
    n_rows, D = centered.shape
    n_latents = len(W_enc)
    sizes = tile("encode_topk", architecture(centered), D=D, F=n_latents, K=k)
    sizes["BLOCK_D"] = sizes["BLOCK_D"] * 2 // centered.element_size()  # bytes of shared memory
    G = ceil_div(n_latents, sizes["GROUP"])
    N = G * sizes["KEPT"]
    indices = torch.empty(n_rows, k, dtype=torch.int64, device=centered.device)
    values = torch.empty(n_rows, k, dtype=centered.dtype, device=centered.device)
    verified = torch.empty(n_rows, dtype=torch.bool, device=centered.device)
    at_once = max(sizes["BLOCK_B"], _MOST_KEYS_AT_ONCE // N)
    block = next_power_of_2(N)
    for start in range(0, n_rows, at_once):
        rows = slice(start, min(start + at_once, n_rows))
        n_block = rows.stop - rows.start
        keys = torch.empty(n_block, N, dtype=torch.int32, device=centered.device)
        blocks = ceil_div(n_block, sizes["BLOCK_B"]) * ceil_div(n_latents, sizes["BLOCK_F"])
        launch(
            _encode_keys_kernel,
            (blocks,),
            x_ptr=centered[rows].contiguous(),
            weights_ptr=W_enc.contiguous(),
            bias_ptr=b_enc.contiguous(),
            keys_ptr=keys,
            B=n_block,
            F=n_latents,
            G=G,
            D=D,
            **sizes,
        )
        launch(
            _select_keys_kernel,
            (n_block,),
            keys_ptr=keys,
            indices_ptr=indices[rows],
            values_ptr=values[rows],
            verified_ptr=verified[rows],
            N=N,
            K=k,
            GROUP=sizes["GROUP"],
            KEPT=sizes["KEPT"],
            BLOCK=block,
            EMIT=min(2048, block),
            num_warps=4 if block <= 4096 else 8 if block <= 8192 else 16,
        )
    return Codes(indices, values), verified
