"""Named GPUs, and the least time of a step on them."""

import pytest
import torch

from sparsteer.sae import InputError, TopKConfig
from sparsteer.training.forecast.caching import ModelSizes, least_reading_seconds
from sparsteer.training.forecast.estimate import least_step_seconds
from sparsteer.training.forecast.gpus import GPUS, known_gpu, named_gpu
from sparsteer.training.forecast.memory import StepSizes, gpu_backend
from sparsteer.training.trainer_config import TrainerConfig


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 5090", "rtx-5090"),
        ("NVIDIA GeForce RTX 5080", None),
        ("NVIDIA L40", None),
    ],
)
def test_a_device_is_known_by_its_name(device: str, expected: str | None) -> None:
    assert known_gpu(device) == (None if expected is None else GPUS[expected])


def test_an_unknown_gpu_is_refused_with_the_nearest_name() -> None:
    assert named_gpu("H100") is GPUS["h100"]
    with pytest.raises(InputError, match="gpu 'h1000' is not known here; perhaps you meant h100"):
        named_gpu("h1000")
    with pytest.raises(InputError, match=r"precision is bfloat16, which T4 does not multiply"):
        GPUS["t4"].operations("bfloat16")


def seconds(name: str, precision: str, *, width: int, n_latents: int) -> float:
    gpu = GPUS[name]
    backend = gpu_backend(gpu.architecture, precision)
    assert backend.dtype == (torch.bfloat16 if precision == "bfloat16" else torch.float32)
    trainer = TrainerConfig(batch_size=8192)
    sizes = StepSizes(TopKConfig(width, n_latents, 32), trainer, precision, backend)
    return least_step_seconds(sizes, gpu)


def test_the_least_time_of_a_step_counted_by_hand() -> None:
    n = 2 * 768 * 12_288 + 12_288 + 768
    product = 2 * 8192 * 768 * 12_288
    by_hand = product / 989e12 + (38 * n + 16 * 8192 * 768) / 3.35e12
    assert seconds("h100", "bfloat16", width=768, n_latents=12_288) == pytest.approx(by_hand)
    by_hand = product / 67e12 + (32 * n + 16 * 8192 * 768) / 3.35e12
    assert seconds("h100", "float32", width=768, n_latents=12_288) == pytest.approx(by_hand)


def test_a_language_model_is_read_in_a_dtype_that_the_gpu_has() -> None:
    sizes = ModelSizes(n_weights=10**9, n_used=5 * 10**8, n_blocks=8, d_model=1024)

    def seconds(dtype: torch.dtype, name: str) -> float:
        return least_reading_seconds(sizes, dtype, GPUS[name], tokens=10**6, context_length=128)

    by_hand = 10**6 * (2 * 5 * 10**8 + 4 * 8 * 1024 * 64)
    assert seconds(torch.float16, "t4") == pytest.approx(by_hand / 65e12)
    assert seconds(torch.float16, "h100") == seconds(torch.bfloat16, "h100")
    assert seconds(torch.float32, "t4") == pytest.approx(by_hand / 8.1e12)
    with pytest.raises(InputError, match="model_dtype is bfloat16, which T4 does not multiply"):
        seconds(torch.bfloat16, "t4")
