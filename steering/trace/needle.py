"""The needle: some MLP value vectors changed for a while, as a reference for what removal does.

ConceptVectors (arXiv 2406.11614) adds normal noise of standard deviation 0.1 to the one column that
holds a concept; here it may also be set to zero. Unlike steering this is a change of parameters.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .config import Needle
from .value_vectors import DownProjection, ValueVector


@contextmanager
def needle(
    projections: Sequence[DownProjection],
    vectors: Sequence[ValueVector],
    kind: Needle = "zero",
    *,
    noise: float = 0.1,
    seed: int = 0,
) -> Generator[None]:
    """Within the context the value vectors are changed; leaving it restores them bit for bit.

    Args:
        projections: the model's, from `down_projections`.
        vectors: which of their rows.
        kind: `zero` sets them to 0; `noise` adds to each element.
        noise: standard deviation of the noise, in the units of the weights; 0 changes nothing.
        seed: of the noise, the same on every device.
    """
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    generator = torch.Generator().manual_seed(seed)
    try:
        with torch.no_grad():
            for each in projections:
                own = [vector.neuron for vector in vectors if vector.layer == each.layer]
                if not own:
                    continue
                rows_FD = each.rows_FD
                neurons_N = torch.tensor(own, device=rows_FD.device)
                before_ND = rows_FD[neurons_N].clone()
                kept.append((rows_FD, neurons_N, before_ND))
                drawn_ND = noise * torch.randn(before_ND.shape, generator=generator)
                rows_FD[neurons_N] = (
                    torch.zeros_like(before_ND)
                    if kind == "zero"
                    else before_ND + drawn_ND.to(before_ND)
                )
        yield
    finally:
        with torch.no_grad():
            for rows_FD, neurons_N, before_ND in kept:
                rows_FD[neurons_N] = before_ND
