"""orthogonality: a penalty on decoder rows that point the same way (OrtSAE)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..kernels.codes import Codes
from ..kernels.decode import decode
from ..kernels.numerics import ceil_div
from .losses import ForwardPass, in_float32

CHUNK = 1024
"""Most decoder rows that are compared with one another."""


def orthogonality_penalty(forward: ForwardPass) -> Float[Tensor, ""]:
    """Mean over latents of the square of the largest cosine of its decoder row with another's, 0
    where that is negative (OrtSAE, arXiv 2509.22033).

    The other is sought in a random part of the dictionary alone: each step cuts it anew into parts
    of at most 1,024 rows, so that the cost grows with the latents and not with their square: the
    products of the search are as many as those of encoding 1,024 rows. What is drawn depends on the
    number of the step alone, so that processes and resumed runs agree.
    """
    unit_FD = torch.nn.functional.normalize(in_float32(forward.sae.W_dec), dim=-1)
    if len(unit_FD) == 1:
        return unit_FD.new_zeros(())
    nearest_F1 = nearest_in_chunks(unit_FD.detach(), forward.step)[:, None]
    # A decoder gathers rows and sums their gradients in a fixed order, which indexing does not.
    ones_F1 = torch.ones_like(nearest_F1, dtype=unit_FD.dtype)
    nearest_FD = decode(Codes(nearest_F1, ones_F1), unit_FD, torch.zeros_like(unit_FD[0]))
    return (unit_FD * nearest_FD).sum(-1).relu().square().mean()


def nearest_in_chunks(
    unit: Float[Tensor, "F D"], step: int, chunk: int = CHUNK
) -> Int[Tensor, "F"]:
    """Of each row the other one with the largest cosine in its part of a random partition.

    Args:
        unit: [F, D] rows of norm 1, at least two.
        step: decides the partition.
        chunk: most rows of a part, which has at least two.
    """
    generator = torch.Generator().manual_seed(step)
    order_F = torch.randperm(len(unit), generator=generator).to(unit.device)
    nearest_F = torch.empty_like(order_F)
    for rows in order_F.tensor_split(ceil_div(len(unit), max(chunk, 3))):
        cosines = unit[rows] @ unit[rows].T
        nearest_F[rows] = rows[cosines.fill_diagonal_(-torch.inf).argmax(-1)]
    return nearest_F
