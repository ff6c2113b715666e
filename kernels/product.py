"""The encoder's dense product, block of rows after block of rows, by the machine's faster library.

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
_FEWEST_ROWS, _FEWEST_WEIGHTS = 64, 1 << 20  # below, the change of layout costs more than it gains


class Affine:
    """rows @ weights^T + bias, without a gradient; a result lasts until the next call.

    Attributes:
        in_onednn: whether oneDNN computes it; PyTorch's `addmm` does otherwise.
        rows_at_once: how many rows a block should have; None if it matters little.
    """

    def __init__(
        self, weights: Float[Tensor, "F D"], bias: Float[Tensor, "F"], n_rows: int
    ) -> None:
        """For blocks of `n_rows` rows in all; later changes of the weights may go unseen."""
        self._weights, self._bias = weights.detach(), bias.detach()
        self._buffer_BF: Tensor | None = None
        self.in_onednn = (
            n_rows >= _FEWEST_ROWS
            and weights.numel() >= _FEWEST_WEIGHTS
            and weights.device.type == "cpu"
            and weights.dtype == bias.dtype == torch.float32
            and onednn_is_faster()
        )
        self.rows_at_once = _ROWS_AT_ONCE if self.in_onednn else None
        if self.in_onednn:
            self._weights = self._weights.contiguous().to_mkldnn()
            self._bias = self._bias.contiguous().to_mkldnn()

    def __call__(self, rows: Float[Tensor, "b D"]) -> Float[Tensor, "b F"]:
        if self.in_onednn:
            rows = rows.contiguous().to_mkldnn()
            return torch.nn.functional.linear(rows, self._weights, self._bias).to_dense()
        if self._buffer_BF is None or len(self._buffer_BF) != len(rows):
            self._buffer_BF = rows.new_empty(len(rows), len(self._weights))
        return torch.addmm(self._bias, rows, self._weights.T, out=self._buffer_BF)


@cache
def onednn_is_faster() -> bool:
    """Whether this is an AMD processor with AVX-512 and PyTorch has oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    information = Path("/proc/cpuinfo")
    return information.is_file() and "AuthenticAMD" in information.read_text()
