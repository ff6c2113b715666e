"""Dense products of the encoder and of AuxK, by the machine's faster library.

PyTorch multiplies float32 matrices on a CPU with MKL, which uses half of the vector width of AMD
processors with AVX-512. oneDNN, which serves tensors in PyTorch's mkldnn layout, uses all of it:
1.6 to 2 times the speed at these shapes (benchmarks/bench_kernels.py). `policy.product_plan`
chooses, by the processor and the sizes alone, so that a run repeats bit for bit.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..policy import backend_of, product_plan


class Affine:
    """rows @ weights^T + bias for block after block of rows, without a gradient; a result lasts
    until the next call.

    Attributes:
        plan: which library computes it, and how many rows a block should have.
    """

    def __init__(
        self, weights: Float[Tensor, "F D"], bias: Float[Tensor, "F"] | None, n_rows: int
    ) -> None:
        """For blocks of `n_rows` rows in all; later changes of the weights may go unseen."""
        self._weights, self._bias = weights.detach(), None if bias is None else bias.detach()
        self._buffer_BF: Tensor | None = None
        same_dtype = bias is None or bias.dtype == weights.dtype
        self.plan = product_plan(
            n_rows, weights.numel(), backend_of(weights), same_dtype=same_dtype
        )
        if self.plan.path == "onednn":
            self._weights = _to_onednn(self._weights)
            self._bias = None if self._bias is None else _to_onednn(self._bias)

    def __call__(self, rows: Float[Tensor, "b D"]) -> Float[Tensor, "b F"]:
        if self.plan.path == "onednn":
            return torch.nn.functional.linear(
                _to_onednn(rows), self._weights, self._bias
            ).to_dense()
        if self._buffer_BF is None or len(self._buffer_BF) != len(rows):
            self._buffer_BF = rows.new_empty(len(rows), len(self._weights))
        if self._bias is None:
            return torch.mm(rows, self._weights.T, out=self._buffer_BF)
        return torch.addmm(self._bias, rows, self._weights.T, out=self._buffer_BF)


def add_product_(
    out: Float[Tensor, "F D"], left: Float[Tensor, "F b"], right: Float[Tensor, "b D"]
) -> None:
    """out += left @ right, in place and without a gradient."""
    if product_plan(len(left), right.numel(), backend_of(right)).path == "onednn":
        out += torch.nn.functional.linear(_to_onednn(left), _to_onednn(right.T)).to_dense()
    else:
        out.addmm_(left, right)


def _to_onednn(tensor: Tensor) -> Tensor:
    return tensor.contiguous().to_mkldnn()
