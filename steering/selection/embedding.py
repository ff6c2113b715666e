"""What a row of data is compared by: the mean of the codes of its content tokens, kept sparse.

The mean, because a sum grows with the length of a row and then measures length (arXiv 2503.15573).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...kernels.codes import Codes
from ...kernels.jaccard import generalized_jaccard_csr


class Mean(NamedTuple):
    """One sparse row: latents, each once and rising, and their mean activations in float32."""

    indices: Int[Tensor, "nnz"]
    values: Float[Tensor, "nnz"]


def mean_code(codes: Codes, n_latents: int) -> Mean:
    """The mean over some tokens of their codes [C, M]; nothing for no tokens."""
    sums_F = torch.zeros(n_latents, dtype=torch.float64)
    sums_F.index_add_(0, codes.indices.flatten(), codes.values.flatten().double())
    latents = sums_F.nonzero().flatten()  # NaN is not zero either, and must stay visible
    return Mean(latents, (sums_F[latents] / max(1, len(codes.indices))).float())


@dataclass(frozen=True, eq=False)
class SparseRows:
    """N nonnegative rows of F latents in compressed form; a row's latents are distinct."""

    offsets: Int[Tensor, "N_plus_1"]
    """Row n holds the slots offsets[n] to offsets[n + 1]."""
    indices: Int[Tensor, "nnz"]
    values: Float[Tensor, "nnz"]
    n_latents: int

    @classmethod
    def stack(cls, rows: Sequence[Mean], n_latents: int) -> "SparseRows":
        """Put rows under each other."""
        lengths = torch.tensor([0, *(len(row.indices) for row in rows)])
        return cls(
            lengths.cumsum(0),
            torch.cat([torch.empty(0, dtype=torch.int64), *(row.indices for row in rows)]),
            torch.cat([torch.empty(0), *(row.values for row in rows)]),
            n_latents,
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, places: Sequence[int]) -> "SparseRows":
        """Some of the rows, in the order asked for."""
        parts = [slice(int(self.offsets[n]), int(self.offsets[n + 1])) for n in places]
        rows = [Mean(self.indices[part], self.values[part]) for part in parts]
        return SparseRows.stack(rows, self.n_latents)

    def mean(self) -> Float[Tensor, "F"]:
        """The mean of the rows, dense, in float32: the prototype of a target's examples.

        Raises ValueError if there is no row.
        """
        if len(self) == 0:
            raise ValueError("the mean of no rows is not defined")
        sums_F = torch.zeros(self.n_latents, dtype=torch.float64)
        return (sums_F.index_add_(0, self.indices, self.values.double()) / len(self)).float()

    def similarities(self, prototype: Float[Tensor, "F"]) -> Float[Tensor, "N"]:
        """The generalized Jaccard similarity of each row with the prototype."""
        return generalized_jaccard_csr(self.offsets, self.indices, self.values, prototype)
