"""The encoder's dense product for a block of rows, by the faster library of the machine.

PyTorch's float32 products on a CPU are MKL's. On AMD processors with AVX-512, MKL uses half of the
vector width and oneDNN, which PyTorch brings too, all of it: twice the speed at these shapes
(measured by benchmarks/bench_kernels.py). The choice depends on the processor and the shape alone,
so that a run repeats bit for bit.
"""

from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

# Smaller products cost nothing, and oneDNN first lays out the weights anew.
_FEWEST_ROWS, _FEWEST_WEIGHTS = 64, 1 << 20


def affine(
    rows: Float[Tensor, "B D"],
    weights: Float[Tensor, "F D"],
    bias: Float[Tensor, "F"],
    buffer: Float[Tensor, "B F"],
) -> Float[Tensor, "B F"]:
    """rows @ weights^T + bias, in the buffer or in a new tensor; without a gradient."""
    large = len(rows) >= _FEWEST_ROWS and weights.numel() >= _FEWEST_WEIGHTS
    on_cpu = rows.device.type == "cpu" and rows.dtype == weights.dtype == torch.float32
    if large and on_cpu and onednn_is_faster():
        # The operator behind compiled linear layers; there is no public name for it.
        return torch.ops.mkldnn._linear_pointwise(rows, weights, bias, "none", [], "")
    return torch.addmm(bias, rows, weights.T, out=buffer)


@cache
def onednn_is_faster() -> bool:
    """Whether this is an AMD processor with AVX-512 and PyTorch has oneDNN's linear layer."""
    if not (torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_supported()):  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType] - there is no public name
        return False
    information = Path("/proc/cpuinfo")
    is_amd = information.is_file() and "AuthenticAMD" in information.read_text()
    return is_amd and hasattr(torch.ops.mkldnn, "_linear_pointwise")
