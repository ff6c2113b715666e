"""Top-k latents by a bfloat16 product, with the kept values in float32 and every row verified.

The encoder's product only has to rank latents; the values of the few that are kept can be computed
again. With rows x = x^ + dx and latents w = w^ + dw, x^ and w^ in bfloat16,
    x . w <= x^ . w^ + ||dx|| ||w|| + ||x^|| ||dw||.
The candidates are the latents with the largest such upper bounds; their products are taken in
float32 by gathered dots and the k largest kept. A row is verified, that is certainly right, if the
largest bound outside of its candidates stays below its k-th value; the bfloat16 result's rounding,
and float32 rounding here and in a dense product, are part of the bound. `policy.encode_plan` says
when screening is worth it.
"""

from typing import NamedTuple

import torch
from jaxtyping import BFloat16, Bool, Float
from torch import Tensor

from ..codes import Codes
from ..gather_dot import gathered_dots
from ..numerics import row_blocks, row_norms
from ..policy import n_screened
from ..topk import largest, topk_select

_ROWS_AT_ONCE = 256  # their scores stay in the cache
_MOST_UNVERIFIED = 0.2  # of the first block; above, screening costs more than it saves
# Squares of entries below 1e-19 vanish from a norm in float32, and products below 1e-38 from a sum.
_UNDERFLOW = 1e-15
# Float32 roundings of x . w, in a dense product, in the gathered one and in the bound itself.
_ROUNDING, _MORE_ROUNDINGS = 2.0**-22, 16
_RESULT_ROUNDING = 2.0**-8  # of a product given in bfloat16, relative


class Screened(NamedTuple):
    """What `screened_topk` found."""

    codes: Codes
    verified: Bool[Tensor, "B"]
    """Rows whose codes are certainly those of a dense product; codes of others mean nothing."""


def screened_topk(
    centered: Float[Tensor, "B D"], W_enc: Float[Tensor, "F D"], b_enc: Float[Tensor, "F"], k: int
) -> Screened:
    """The k largest positive pre-activations of each row, and which rows are verified.

    Args:
        centered: [B, D] float32 rows less b_dec.
        W_enc, b_enc: the encoder.
        k: latents kept of each row, 1 to F - 1.

    Returns:
        Codes as of `topk_select`, and which rows are verified. The kept values come from dot
        products, which round otherwise than a dense product's. Where many of the first rows fail
        verification, the others are not tried and no row is verified.
    """
    n_candidates = min(n_screened(k), len(W_enc) - 1)
    bounds = UpperBounds(W_enc, b_enc)
    indices_BM = torch.zeros(len(centered), n_candidates, dtype=torch.int64)
    outside_B = centered.new_full([len(centered)], torch.inf)
    for block in row_blocks(len(centered), _ROWS_AT_ONCE):
        highest_bn, latents_bn = largest(bounds(centered[block]), n_candidates + 1)
        indices_BM[block], outside_B[block] = latents_bn[:, :-1], highest_bn[:, -1]
        if block.start == 0:
            first = _best(centered[block], W_enc, b_enc, indices_BM[block], outside_B[block], k)
            if (~first.verified).float().mean() > _MOST_UNVERIFIED:
                return _none_verified(centered, k)
    return _best(centered, W_enc, b_enc, indices_BM, outside_B, k)


def _none_verified(centered_BD: Tensor, k: int) -> Screened:
    """Codes of which no row is verified."""
    values_BK = centered_BD.new_zeros(len(centered_BD), k)
    verified_B = torch.zeros(len(centered_BD), dtype=torch.bool)
    return Screened(Codes(values_BK.long(), values_BK), verified_B)


class UpperBounds:
    """Bounds above every pre-activation; a result lasts until the next call."""

    def __init__(self, W_enc_FD: Tensor, b_enc_F: Tensor) -> None:
        self._weights_FD, self._norms_F, self._errors_F = _rounded(W_enc_FD)
        self._bias_F = b_enc_F + b_enc_F.abs() * (_MORE_ROUNDINGS * _ROUNDING)
        F = len(W_enc_FD)
        self._products_bF = W_enc_FD.new_empty(_ROWS_AT_ONCE, F, dtype=torch.bfloat16)
        self._bounds_bF = W_enc_FD.new_empty(_ROWS_AT_ONCE, F)

    def __call__(self, rows_bD: Float[Tensor, "b D"]) -> Float[Tensor, "b F"]:
        rounded_bD, norms_b, errors_b = _rounded(rows_bD)
        products_bF, bounds_bF = self._products_bF[: len(rows_bD)], self._bounds_bF[: len(rows_bD)]
        torch.mm(rounded_bD, self._weights_FD.T, out=products_bF)
        # A positive product may be larger by its rounding, a negative one nearer to 0.
        larger, nearer = 1 + _RESULT_ROUNDING, 1 - _RESULT_ROUNDING
        bounds_bF.copy_(products_bF)
        torch.nn.functional.leaky_relu_(bounds_bF, nearer / larger).mul_(larger)
        errors_b = errors_b + norms_b * ((rows_bD.shape[1] + _MORE_ROUNDINGS) * _ROUNDING)
        bounds_bF.addcmul_(errors_b[:, None], self._norms_F)
        bounds_bF.addcmul_(norms_b[:, None], self._errors_F)
        return bounds_bF.add_(self._bias_F)


def _rounded(
    rows_ND: Float[Tensor, "N D"],
) -> tuple[BFloat16[Tensor, "N D"], Float[Tensor, "N"], Float[Tensor, "N"]]:
    """Rows in bfloat16; norms that neither the rows nor the rounded ones exceed; norms of the
    differences."""
    rounded_ND = rows_ND.to(torch.bfloat16)
    errors_N = row_norms(rounded_ND.float().sub_(rows_ND)) + _UNDERFLOW
    return rounded_ND, row_norms(rows_ND) + errors_N, errors_N


def _best(
    rows_BD: Tensor,
    W_enc_FD: Tensor,
    b_enc_F: Tensor,
    candidates_BM: Tensor,
    outside_B: Tensor,
    k: int,
) -> Screened:
    """The k largest of the candidates by their float32 products."""
    candidates_BM = candidates_BM.sort(-1).values  # of equal values the lowest index is kept
    values_BM = gathered_dots(candidates_BM, rows_BD, W_enc_FD) + b_enc_F[candidates_BM]
    codes = topk_select(values_BM, k)
    indices_BK = candidates_BM.gather(-1, codes.indices).masked_fill(codes.values == 0, 0)
    verified_B = outside_B < codes.values.amin(-1)  # never where either is NaN
    return Screened(Codes(indices_BK, codes.values), verified_B)
