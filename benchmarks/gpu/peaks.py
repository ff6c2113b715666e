"""What GPUs reach at most, as published, and the part of it that a prediction assumes."""

from typing import NamedTuple


class Peaks(NamedTuple):
    """One GPU."""

    memory_tb_per_s: float
    l2_tb_per_s: float
    """Of reads that find their data in the L2 cache; that of the memory where none is published."""
    l2_mb: float
    bfloat16_tflops: float
    """Dense, with float32 sums."""


PEAKS = {
    # nvidia.com/en-us/data-center/h100 (SXM, without sparsity); the L2 by reads that Chips and
    # Cheese measured, "Nvidia's H100: Microarchitecture and performance" (2023).
    "h100": Peaks(3.35, 5.5, 50, 989),
    # nvidia.com/en-us/data-center/h200 (SXM); the same chip with another memory.
    "h200": Peaks(4.8, 5.5, 50, 989),
    # nvidia.com/en-us/data-center/a100 (80 GB SXM); the L2 by the Ampere white paper, 5,120 bytes a
    # clock at 1.41 GHz.
    "a100": Peaks(2.04, 7.2, 40, 312),
}

MEMORY_REACHED = 0.9
"""Part of the memory's peak that a large copy usually reaches. Assumed, as all below."""
PRODUCT_REACHED = 0.75
"""Part of the tensor cores' peak that cuBLAS reaches at widths of 2,048 and more."""
NARROW_PRODUCT_REACHED = 0.59
"""And at less: 583 of 989 TFLOP/s at 1,024 (pull request 1038 of facebookexperimental/triton)."""
FUSED_OF_LIBRARY = 0.75
"""Speed of a product whose tiles are also searched, as a part of cuBLAS's."""
GATHER_REACHED = 0.9
"""Part of the bandwidth that gathers of whole rows reach."""
SHORTEST_KERNEL_US = 2.0
"""A kernel takes at least this."""
HOST_US_A_LAUNCH = 9.0
"""Python, PyTorch and the driver, for each kernel that the host launches."""
