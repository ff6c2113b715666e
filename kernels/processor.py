"""What this machine's processor multiplies quickly, by /proc/cpuinfo and PyTorch's own account."""

from functools import cache
from pathlib import Path

import torch


@cache
def cpu_information() -> str:
    """The text of Linux's /proc/cpuinfo; empty where there is none."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN beats PyTorch's own library, MKL, at float32 products.

    It does on AMD processors with AVX-512, of whose vector width MKL uses half.
    """
    return _onednn_has_avx512() and "AuthenticAMD" in cpu_information()


@cache
def bfloat16_is_faster() -> bool:
    """Whether products in bfloat16 beat those in float32: AVX-512 BF16, and oneDNN to use it."""
    return _onednn_has_avx512() and "avx512_bf16" in cpu_information()


def _onednn_has_avx512() -> bool:
    return (
        torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )
