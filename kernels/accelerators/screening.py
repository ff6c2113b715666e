"""Top-k latents by a bfloat16 product, with the kept values in float32 and every row verified.

The encoder's product only has to rank latents; the values of the few that are kept can be computed
again. With rows x = x^ + dx and latents w = w^ + dw, x^ and w^ in bfloat16,
    |x . w - x^ . w^| <= ||dx|| ||w|| + ||x^|| ||dw||,
so that each product lies between two bounds; the rounding of the bfloat16 result, and float32
rounding here and in a dense product, widen them. Of each group of latents the largest lower bound
is taken; a value that k of these reach is one that k latents certainly reach. Latents whose upper
bound reaches it are the row's candidates, as many as it happens to have: any other is certainly not
among the k largest. Their float32 products decide. A row of more candidates than would pay is left
to the dense product. `policy.encode_plan` says when screening is worth it.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import BFloat16, Bool, Float
from torch import Tensor

from ..codes import Codes
from ..numerics import row_blocks
from ..policy import ROWS_TRIED, most_candidates, screened_rows

# Of the rows that are tried first; above, screening costs more than it saves.
_MOST_UNVERIFIED = 0.3
# Float32 roundings of x . w, in a dense product, in the one that decides and in the bound itself.
_ROUNDING, _MORE_ROUNDINGS = 2.0**-22, 16


class Screened(NamedTuple):
    """What `screened_topk` found."""

    codes: Codes
    verified: Bool[Tensor, "B"]
    """Rows whose latents are certainly the k largest, but for float32 rounding; codes of other rows
    mean nothing."""


def screened_topk(
    centered: Float[Tensor, "B D"], W_enc: Float[Tensor, "F D"], b_enc: Float[Tensor, "F"], k: int
) -> Screened:
    """The k largest positive pre-activations of each row, and which rows are verified.

    Args:
        centered: [B, D] float32 rows less b_dec.
        W_enc, b_enc: the encoder.
        k: latents kept of each row, 1 to F.

    Returns:
        Codes like those of `topk_select`, but largest first, and which rows are verified. The kept
        values come from dot products, which round otherwise than a dense product's. Where many of
        the first rows have too many candidates, the others are not tried.
    """
    # Compiled loops, and the compiler with them, are loaded where they first run.
    from ..compiled import over_rows
    from .candidates import best_candidates

    n_rows, width = centered.shape
    n_latents = len(W_enc)
    rows, weights = rounded(centered), rounded(W_enc)
    bias_F, centered_BD, weights_FD = (
        tensor.detach().contiguous().numpy() for tensor in (b_enc, centered, W_enc)
    )
    # A bias of minus infinity only keeps its latent out.
    sizes = np.abs(bias_F[bias_F != -np.inf])
    largest = np.float32(weights.norms.max() + sizes.max(initial=0))
    codes = Codes(
        torch.zeros(n_rows, k, dtype=torch.int64), torch.zeros(n_rows, k, dtype=centered.dtype)
    )
    verified_B = torch.zeros(n_rows, dtype=torch.bool)
    rows_at_once = screened_rows(n_latents)
    products_bF = W_enc.new_empty(min(n_rows, rows_at_once), n_latents, dtype=torch.bfloat16)
    blocks = list(row_blocks(n_rows, rows_at_once))
    if n_rows > ROWS_TRIED:
        blocks[:1] = [slice(0, ROWS_TRIED), slice(ROWS_TRIED, blocks[0].stop)]
    for block in blocks:
        n = block.stop - block.start
        torch.mm(rows.rounded[block], weights.rounded.T, out=products_bF[:n])
        over_rows(
            best_candidates,
            n,
            block.start,
            products_bF.view(torch.uint16).numpy(),
            centered_BD,
            weights_FD,
            bias_F,
            weights.norms,
            weights.errors,
            rows.norms,
            bound_errors(rows, width),
            largest,
            most_candidates(n_latents, k),
            codes.indices.numpy(),
            codes.values.numpy(),
            verified_B.numpy(),
        )
        if block.start == 0 and (~verified_B[:n]).float().mean() > _MOST_UNVERIFIED:
            break
    return Screened(codes, verified_B)


class Rounded(NamedTuple):
    """What `rounded` returns."""

    rounded: BFloat16[Tensor, "N D"]
    norms: npt.NDArray[np.float32]
    """[N] which neither the rows nor the rounded ones exceed."""
    errors: npt.NDArray[np.float32]
    """[N] norms of the differences."""


def rounded(rows_ND: Float[Tensor, "N D"]) -> Rounded:
    """Float32 rows in bfloat16, and what the products' bounds need."""
    from ..compiled import over_rows
    from .candidates import round_rows

    rows_ND = rows_ND.detach().contiguous()
    rounded_ND = rows_ND.new_empty(rows_ND.shape, dtype=torch.bfloat16)
    norms_N, errors_N = np.empty((2, len(rows_ND)), np.float32)
    bits = rounded_ND.view(torch.uint16).numpy()
    over_rows(round_rows, len(rows_ND), rows_ND.numpy(), bits, norms_N, errors_N)
    return Rounded(rounded_ND, norms_N, errors_N)


def bound_errors(rows: Rounded, width: int) -> npt.NDArray[np.float32]:
    """[B] what a row's products may be wrong by, for weights of norm 1: by the row's own rounding
    and by that of float32 sums over the width."""
    errors_B = rows.errors + rows.norms * ((width + _MORE_ROUNDINGS) * _ROUNDING)
    return errors_B.astype(np.float32)
