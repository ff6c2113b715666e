"""Top-k latents by a bfloat16 product, with the kept values in float32 and a proof for each row.

The encoder's product only has to rank latents; the values of the few that are kept can be computed
again. With rows x = x^ + dx and latents w = w^ + dw, x^ and w^ in bfloat16,
    x . w <= x^ . w^ + ||dx|| ||w|| + ||x^|| ||dw||.
The candidates are the latents with the largest such upper bounds; their products are taken in
float32 by gathered dots and the k largest kept. A row is proven right if the largest bound outside
of its candidates stays below its k-th value; the bfloat16 result's rounding, and float32 rounding
here and in a dense product, are part of the bound.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import BFloat16, Bool, Float
from torch import Tensor

from ..backward import gathered_dots
from ..codes import Codes
from ..numerics import row_norms
from ..topk import largest, topk_select

_ROWS_AT_ONCE = 256  # their scores stay in the cache
_FEWEST_ROWS, _FEWEST_WEIGHTS = 1024, 1 << 20  # below, rounding the weights costs too much
_FEWEST_LATENTS_PER_CANDIDATE = 96  # below, finding the candidates costs too much
_MOST_UNCERTAIN = 0.2  # of the first block; above, screening costs more than it saves
# Squares of entries below 1e-19 vanish from a norm in float32, and products below 1e-38 from a sum.
_UNDERFLOW = 1e-15
# Float32 roundings of x . w, in a dense product, in the gathered one and in the bound itself.
_ROUNDING, _MORE_ROUNDINGS = 2.0**-22, 16
_RESULT_ROUNDING = 2.0**-8  # of a product given in bfloat16, relative


class Screened(NamedTuple):
    """What `screened_topk` found."""

    codes: Codes
    certain: Bool[Tensor, "B"]
    """Rows whose codes are proven to be those of a dense product; codes of others mean nothing."""


def screening_pays(x: Float[Tensor, "B D"], n_latents: int, k: int) -> bool:
    """Whether screening is faster than the float32 product for these rows on this machine."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and len(x) >= _FEWEST_ROWS
        and n_latents * x.shape[1] >= _FEWEST_WEIGHTS
        and n_latents >= _FEWEST_LATENTS_PER_CANDIDATE * (_n_candidates(k) + 1)
        and bfloat16_is_faster()
    )


@cache
def bfloat16_is_faster() -> bool:
    """Whether the processor multiplies bfloat16 (AVX-512 BF16) and PyTorch has oneDNN for it."""
    information = Path("/proc/cpuinfo")
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and information.is_file()
        and "avx512_bf16" in information.read_text()
    )


def screened_topk(
    centred: Float[Tensor, "B D"], W_enc: Float[Tensor, "F D"], b_enc: Float[Tensor, "F"], k: int
) -> Screened:
    """The k largest positive pre-activations of each row, where they can be proven.

    Args:
        centred: [B, D] float32 rows less b_dec.
        W_enc, b_enc: the encoder.
        k: latents kept of each row, 1 to F - 1.

    Returns:
        Codes as of `topk_select`, and which rows are proven. The kept values come from dot
        products, which round otherwise than a dense product's. Where many of the first rows cannot
        be proven, no row is.
    """
    n_candidates = min(_n_candidates(k), len(W_enc) - 1)
    bounds = UpperBounds(W_enc, b_enc)
    indices_BM = torch.zeros(len(centred), n_candidates, dtype=torch.int64)
    outside_B = centred.new_full([len(centred)], torch.inf)
    for start in range(0, len(centred), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        highest_bn, latents_bn = largest(bounds(centred[block]), n_candidates + 1)
        indices_BM[block], outside_B[block] = latents_bn[:, :-1], highest_bn[:, -1]
        if start == 0:
            first = _best(centred[block], W_enc, b_enc, indices_BM[block], outside_B[block], k)
            if (~first.certain).float().mean() > _MOST_UNCERTAIN:
                return _nothing(centred, k)
    return _best(centred, W_enc, b_enc, indices_BM, outside_B, k)


def _nothing(centred_BD: Tensor, k: int) -> Screened:
    """No row proven."""
    values_BK = centred_BD.new_zeros(len(centred_BD), k)
    certain_B = torch.zeros(len(centred_BD), dtype=torch.bool)
    return Screened(Codes(values_BK.long(), values_BK), certain_B)


def _n_candidates(k: int) -> int:
    return k + max(8, k // 2) - 1


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
    certain_B = outside_B < codes.values.amin(-1)  # never where either is NaN
    return Screened(Codes(indices_BK, codes.values), certain_B)
