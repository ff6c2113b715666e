"""What GPUs reach at most, as published, and the part of it that a prediction assumes."""

from typing import NamedTuple

from sparsteer.training.forecast.gpus import GPUS


class Peaks(NamedTuple):
    """One GPU."""

    memory_tb_per_s: float
    l2_tb_per_s: float
    """Of reads that find their data in the L2 cache; that of the memory where none is published."""
    l2_mb: float
    bfloat16_tflops: float
    """Dense, with float32 sums."""


_L2 = {
    # Megabytes, and terabytes a second where a figure is published.
    "b200": (126, None),  # "Blackwell Tuning Guide" (docs.nvidia.com)
    "h200-nvl": (50, 5.5),  # the same chip as the H100's
    "h200": (50, 5.5),
    "h100-nvl": (50, 5.5),
    "h100-pcie": (50, 5.5),
    # "NVIDIA H100 Tensor Core GPU Architecture"; the speed by reads that Chips and Cheese measured,
    # "Nvidia's H100: Microarchitecture and performance" (2023).
    "h100": (50, 5.5),
    # "NVIDIA A100 Tensor Core GPU Architecture": 5,120 bytes a clock at 1.41 GHz.
    "a100-80gb-pcie": (40, 7.2),
    "a100-80gb": (40, 7.2),
    "a100": (40, 7.2),
    "l40s": (96, None),  # "NVIDIA Ada GPU Architecture", of the chips AD102 and AD104
    "l4": (48, None),
    "a10": (6, None),  # "NVIDIA Ampere GA102 GPU Architecture"
    "rtx-a6000": (6, None),
    "rtx-5090": (96, None),  # "NVIDIA RTX Blackwell GPU Architecture"
    "rtx-4090": (72, None),  # "NVIDIA Ada GPU Architecture"
    "rtx-3090": (6, None),  # "NVIDIA Ampere GA102 GPU Architecture"
}


def _peaks(name: str) -> Peaks:
    memory = GPUS[name].bytes_per_second / 1e12
    megabytes, l2 = _L2[name]
    return Peaks(memory, l2 or memory, megabytes, GPUS[name].operations("bfloat16") / 1e12)


PEAKS = {name: _peaks(name) for name in _L2}
"""Of the GPUs of `sparsteer.training.forecast.gpus`, which says where its figures are from, those
that multiply bfloat16."""

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
