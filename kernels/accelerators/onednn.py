"""Dense products of the encoder and of AuxK, by the machine's faster library.

PyTorch multiplies float32 matrices on a CPU with MKL, which uses half of the vector width of AMD
processors with AVX-512. oneDNN, which serves tensors in PyTorch's mkldnn layout, uses all of it:
1.6 to 2 times the speed at these shapes (benchmarks/bench_kernels.py). The choice depends on the
processor and the sizes alone, so that a run repeats bit for bit.
"""

from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

# Larger results of oneDNN come anew from the system each time; PyTorch's go into one buffer.
_ROWS_AT_ONCE = 256
_FEWEST_ROWS, _FEWEST_WEIGHTS = 64, 1 << 18  # below, the change of layout costs more than it gains


class Affine:
    """rows @ weights^T + bias for block after block of rows, without a gradient; a result lasts
    until the next call.

    Attributes:
        in_onednn: whether oneDNN computes it; PyTorch's `addmm` does otherwise.
        rows_at_once: how many rows a block should have; None if it matters little.
    """

    def __init__(
        self, weights: Float[Tensor, "F D"], bias: Float[Tensor, "F"] | None, n_rows: int
    ) -> None:
        """For blocks of `n_rows` rows in all; later changes of the weights may go unseen."""
        self._weights, self._bias = weights.detach(), None if bias is None else bias.detach()
        self._buffer_BF: Tensor | None = None
        same_dtype = bias is None or bias.dtype == weights.dtype
        self.in_onednn = same_dtype and _takes_onednn(weights, n_rows)
        self.rows_at_once = _ROWS_AT_ONCE if self.in_onednn else None
        if self.in_onednn:
            self._weights = _to_onednn(self._weights)
            self._bias = None if self._bias is None else _to_onednn(self._bias)

    def __call__(self, rows: Float[Tensor, "b D"]) -> Float[Tensor, "b F"]:
        if self.in_onednn:
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
    if _takes_onednn(right, len(left)):
        out += torch.nn.functional.linear(_to_onednn(left), _to_onednn(right.T)).to_dense()
    else:
        out.addmm_(left, right)


def _takes_onednn(weights: Tensor, n_rows: int) -> bool:
    return (
        n_rows >= _FEWEST_ROWS
        and weights.numel() >= _FEWEST_WEIGHTS
        and weights.device.type == "cpu"
        and weights.dtype == torch.float32
        and onednn_is_faster()
    )


def _to_onednn(tensor: Tensor) -> Tensor:
    return tensor.contiguous().to_mkldnn()


@cache
def onednn_is_faster() -> bool:
    """Whether this is an AMD processor with AVX-512 and PyTorch has oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    information = Path("/proc/cpuinfo")
    return information.is_file() and "AuthenticAMD" in information.read_text()
