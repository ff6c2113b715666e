"""The encoder's product and its top-k selection in one: no pre-activation reaches the GPU's memory.

While a tile of pre-activations is in registers, the KEPT largest of every GROUP neighboring
columns are stored as packed keys: the bits of relu(pre) in float32, their lowest log2(GROUP) bits
replaced by the column's place in its group. A second kernel selects the k largest keys of a row.
The keys of a tile's row lie beside each other, the largest of each group first: KEPT stores of
one 32-byte sector each. A column costs four integer or float instructions to become a key and two
for each key kept after the first, fused to one from sm_90 on.

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
from ..dispatch import Block, Pointer, Scalar, architecture, constexpr, jit, launch, tl
from ..numerics import ceil_div, next_power_of_2
from ..tiles import tile
from ..topk_keys import kth_largest, relu_bits
from ..unused_slots import zero_unused

_MOST_KEYS_AT_ONCE = 1 << 26


@jit
def _encode_keys_kernel(
    x_ptr: Pointer,  # [B, D] centered rows
    weights_ptr: Pointer,  # [F, D]
    bias_ptr: Pointer,  # [F]
    keys_ptr: Pointer,  # [B, tiles, KEPT, BLOCK_F / GROUP] (out)
    B: Scalar,
    F: Scalar,
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
    # Columns beyond F multiply zeros; the selection leaves them out.
    place = tl.arange(0, BLOCK_F) % GROUP
    keys = (relu_bits(pre) & (0x80000000 - GROUP)) | (GROUP - 1 - place)[None, :]
    keys = tl.reshape(keys, (BLOCK_B, BLOCK_F // GROUP, GROUP))
    tiles = tl.cdiv(F, BLOCK_F)
    first_key = (rows.to(tl.int64) * tiles + block_f) * (KEPT * (BLOCK_F // GROUP))
    key_ptrs = keys_ptr + first_key[:, None] + tl.arange(0, BLOCK_F // GROUP)[None, :]
    inside = in_rows[:, None]
    largest = tl.max(keys, axis=2)
    tl.store(key_ptrs, largest, mask=inside)
    for kept in tl.static_range(1, KEPT):
        # The keys of a group differ. Without a sign those below the last one are the largest
        # differences from it, the next key first.
        beyond = (keys - largest[:, :, None]).to(tl.uint32, bitcast=True)
        largest += tl.max(beyond, axis=2).to(tl.int32, bitcast=True)
        tl.store(key_ptrs + kept * (BLOCK_F // GROUP), largest, mask=inside)


@jit
def _scores_and_columns(
    keys: Block, places: Block, F: Scalar, GROUP: constexpr, KEPT: constexpr, WIDTH: constexpr
) -> tuple[Block, Block]:
    """The bits of each key that are compared, 0 beyond the last column, and its column."""
    group = places // (KEPT * WIDTH) * WIDTH + places % WIDTH
    columns = group * GROUP + (GROUP - 1 - (keys & (GROUP - 1)))
    return tl.where(columns < F, keys & -GROUP, 0), columns


@jit
def _select_keys_kernel(
    keys_ptr: Pointer,  # [B, N] packed keys as _encode_keys_kernel writes them
    indices_ptr: Pointer,  # [B, K] (out)
    values_ptr: Pointer,  # [B, K] (out)
    verified_ptr: Pointer,  # [B] (out) bool
    N: Scalar,
    F: Scalar,
    K: Scalar,
    GROUP: constexpr,
    KEPT: constexpr,
    WIDTH: constexpr,
    BLOCK: constexpr,
    EMIT: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    keys_ptr += row * N
    places = tl.arange(0, BLOCK)
    keys = tl.load(keys_ptr + places, mask=places < N, other=0)
    scores, _ = _scores_and_columns(keys, places, F, GROUP, KEPT, WIDTH)
    threshold, ties = kth_largest(scores, K)
    full = (scores > threshold) & (places // WIDTH % KEPT == KEPT - 1)
    verified = (ties == 0) & (tl.max(full.to(tl.int32), 0) == 0)
    tl.store(verified_ptr + row, verified)
    used = threshold * 0
    for start in range(0, N, EMIT):
        positions = start + tl.arange(0, EMIT)
        found = tl.load(keys_ptr + positions, mask=positions < N, other=0)
        bits, columns = _scores_and_columns(found, positions, F, GROUP, KEPT, WIDTH)
        kept = bits > threshold
        slots = used + tl.cumsum(kept.to(tl.int32), 0) - 1
        kept = kept & (slots < K)
        # The middle of what the replaced bits could have been; infinity and NaN as they are.
        middle = tl.where(bits < 0x7F800000, bits + GROUP // 2, bits)
        values = middle.to(tl.float32, bitcast=True)
        tl.store(indices_ptr + row * K + slots, columns.to(tl.int64), mask=kept)
        tl.store(values_ptr + row * K + slots, values.to(values_ptr.dtype.element_ty), mask=kept)
        used += tl.sum(kept.to(tl.int32), 0)
    zero_unused(indices_ptr + row * K, values_ptr + row * K, used, K, EMIT)


def fused_topk(
    centered: Float[Tensor, "B D"], W_enc: Float[Tensor, "F D"], b_enc: Float[Tensor, "F"], k: int
) -> tuple[Codes, Bool[Tensor, "B"]]:
    """Codes of each row, and which rows are verified; codes of others may be wrong."""
    n_rows, D = centered.shape
    n_latents = len(W_enc)
    sizes = tile("encode_topk", architecture(centered), D=D, F=n_latents, K=k)
    sizes["BLOCK_D"] = sizes["BLOCK_D"] * 2 // centered.element_size()  # bytes of shared memory
    width = sizes["BLOCK_F"] // sizes["GROUP"]
    N = ceil_div(n_latents, sizes["BLOCK_F"]) * sizes["KEPT"] * width
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
            F=n_latents,
            K=k,
            GROUP=sizes["GROUP"],
            KEPT=sizes["KEPT"],
            WIDTH=width,
            BLOCK=block,
            EMIT=min(512, block),
            num_warps=4 if block <= 4096 else 8 if block <= 8192 else 16,
        )
    return Codes(indices, values), verified
