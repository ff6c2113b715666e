"""Generalized Jaccard similarity of codes, sparse or dense, with one prototype."""

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.codes import Codes
from ...kernels.jaccard import generalized_jaccard_csr

_DENSE_ROWS_AT_ONCE = 256


def generalized_jaccard(
    codes: Codes | Float[Tensor, "N F"], prototype: Float[Tensor, "F"]
) -> Float[Tensor, "N"]:
    """sum_f min(z_f, p_f) / sum_f max(z_f, p_f) for each of N rows z; 0/0 is 0.

    Args:
        codes: N sparse rows with indices and values [N, M], or a dense [N, F] tensor; nowhere
            negative.
        prototype: [F], nowhere negative.

    Returns:
        [N] from 0 (no latent in common) to 1 (equal); NaN for a row that holds NaN.

    Raises:
        ValueError: the widths differ, codes have other than one leading dimension, or a value is
            negative.

    The measure of arXiv 2503.15573.
    """
    if isinstance(codes, Codes):
        return _of_sparse(codes, prototype)
    if codes.shape[1] != len(prototype):
        raise ValueError(f"codes have {codes.shape[1]} latents, the prototype {len(prototype)}")
    if bool((codes < 0).any()) or bool((prototype < 0).any()):
        raise ValueError("codes and prototype must not be negative")
    dtype = torch.promote_types(codes.dtype, prototype.dtype)
    p_F = prototype.double()
    parts: list[Tensor] = [codes.new_zeros(0, dtype=torch.float64)]
    for start in range(0, len(codes), _DENSE_ROWS_AT_ONCE):
        block_NF = codes[start : start + _DENSE_ROWS_AT_ONCE]
        minima_N = torch.minimum(block_NF, p_F).sum(-1)
        maxima_N = torch.maximum(block_NF, p_F).sum(-1)
        parts.append(torch.where(maxima_N == 0, 0, minima_N / maxima_N))
    return torch.cat(parts).to(dtype)


def _of_sparse(codes: Codes, prototype_F: Tensor) -> Tensor:
    if codes.indices.dim() != 2:
        raise ValueError(f"codes have shape {list(codes.indices.shape)}, but [N, M] is needed")
    n_rows, n_slots = codes.indices.shape
    offsets = torch.arange(n_rows + 1, device=codes.indices.device) * n_slots
    # Unused slots hold value 0, which changes no sum.
    return generalized_jaccard_csr(
        offsets, codes.indices.flatten(), codes.values.flatten(), prototype_F
    )
