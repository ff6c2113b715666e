"""Published ceilings of known GPUs, by which times are predicted. Imports no torch.

Products without sparsity, with sums in float32. No product here was timed on any of them, and none
reaches its ceiling. NVIDIA's pages and data sheets, which mostly state twice as much, with
sparsity:

- B200: "NVIDIA Blackwell Datasheet", HGX B200 for each GPU; memory at 7.7 TB/s, as pull request
  4002 of pytorch/ao computes from what the device says, where "NVIDIA DGX B200" has 8
- H200, H100: "NVIDIA H200 GPU", "NVIDIA H100 GPU" (SXM, NVL); "NVIDIA H100 Tensor Core GPU
  Architecture" (PCIe)
- A100: "NVIDIA A100 Tensor Core GPU" (data sheet)
- L40S, L4, A10, V100, T4: their data sheets
- RTX A6000, RTX 3090: "NVIDIA Ampere GA102 GPU Architecture"; RTX 4090: "NVIDIA Ada GPU
  Architecture"; RTX 5090: "NVIDIA RTX Blackwell GPU Architecture" (with sums in float16 these
  GeForce reach twice as much)
"""

from dataclasses import dataclass

from ...sae.common.errors import InputError
from ...sae.common.files import nearest


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU."""

    title: str
    words: tuple[str, ...]
    """What the device's name holds, as the driver gives it."""
    architecture: int
    """Compute capability as one number, such as 90."""
    memory_bytes: float
    bytes_per_second: float
    """Of its memory."""
    float32: float
    """Operations a second in float32 products."""
    tf32: float | None = None
    """None where it has no such products."""
    bfloat16: float | None = None
    float16: float | None = None

    def operations(self, precision: str, *, setting: str = "precision") -> float:
        """Operations a second in products of the precision: float32, tf32, bfloat16 or float16.

        Raises InputError, which names the setting that asks for it, if the GPU has none of it.
        """
        rates = {
            "float32": self.float32,
            "tf32": self.tf32,
            "bfloat16": self.bfloat16,
            "float16": self.float16,
        }
        rate = rates[precision]
        if rate is None:
            raise InputError(
                f"{setting} is {precision}, which {self.title} does not multiply; give float32",
                field=setting,
            )
        return rate


def _gpu(
    title: str,
    words: str,
    arch: int,
    gigabytes: int,
    terabytes_per_second: float,
    float32: int | float,
    tf32: int | float | None = None,
    bfloat16: int | float | None = None,
    float16: int | float | None = None,
) -> Gpu:
    """Rates in 10^12 operations a second; float16 is multiplied as fast as bfloat16 where that
    is."""
    tera = 1e12
    float16 = bfloat16 if float16 is None else float16
    return Gpu(
        title,
        tuple(words.split()),
        arch,
        gigabytes * 1e9,
        terabytes_per_second * tera,
        float32 * tera,
        None if tf32 is None else tf32 * tera,
        None if bfloat16 is None else bfloat16 * tera,
        None if float16 is None else float16 * tera,
    )


GPUS: dict[str, Gpu] = {
    "b200": _gpu("B200", "B200", 100, 180, 7.7, 75, 1125, 2250),
    "h200-nvl": _gpu("H200 NVL", "H200 NVL", 90, 141, 4.8, 60, 418, 836),
    "h200": _gpu("H200 SXM", "H200", 90, 141, 4.8, 67, 495, 989),
    "h100-nvl": _gpu("H100 NVL", "H100 NVL", 90, 94, 3.9, 60, 418, 836),
    "h100-pcie": _gpu("H100 PCIe", "H100 PCIe", 90, 80, 2.0, 51, 378, 756),
    "h100": _gpu("H100 SXM", "H100", 90, 80, 3.35, 67, 495, 989),
    "a100-80gb-pcie": _gpu("A100 80GB PCIe", "A100 80GB PCIe", 80, 80, 1.935, 19.5, 156, 312),
    "a100-80gb": _gpu("A100 80GB SXM", "A100 80GB", 80, 80, 2.039, 19.5, 156, 312),
    "a100": _gpu("A100 40GB", "A100", 80, 40, 1.555, 19.5, 156, 312),
    "l40s": _gpu("L40S", "L40S", 89, 48, 0.864, 91.6, 183, 362),
    "l4": _gpu("L4", "L4", 89, 24, 0.3, 30.3, 60, 121),
    "a10": _gpu("A10", "A10", 86, 24, 0.6, 31.2, 62.5, 125),
    "rtx-a6000": _gpu("RTX A6000", "RTX A6000", 86, 48, 0.768, 38.7, 77.4, 154.8),
    "rtx-5090": _gpu("RTX 5090", "RTX 5090", 120, 32, 1.792, 104.8, 104.8, 209.5),
    "rtx-4090": _gpu("RTX 4090", "RTX 4090", 89, 24, 1.008, 82.6, 82.6, 165.2),
    "rtx-3090": _gpu("RTX 3090", "RTX 3090", 86, 24, 0.936, 35.6, 35.6, 71),
    "v100": _gpu("V100", "V100", 70, 32, 0.9, 15.7, float16=125),
    "t4": _gpu("T4", "T4", 75, 16, 0.32, 8.1, float16=65),
}
"""By the names that `--gpu` takes; of two that fit a device's name the first is meant."""


def named_gpu(name: str) -> Gpu:
    """The GPU called `name` here. Raises InputError for an unknown one, with the nearest name."""
    if (gpu := GPUS.get(name.lower())) is not None:
        return gpu
    near = nearest(name.lower(), GPUS)
    hint = f"perhaps you meant {near[0]}" if near else f"it knows {', '.join(GPUS)}"
    raise InputError(f"gpu {name!r} is not known here; {hint}", field="gpu")


def known_gpu(device_name: str) -> Gpu | None:
    """The GPU whose driver gives this name, such as NVIDIA H100 80GB HBM3; None if unknown."""
    there = device_name.replace("-", " ").split()
    for gpu in GPUS.values():
        if all(word in there for word in gpu.words):
            return gpu
    return None
