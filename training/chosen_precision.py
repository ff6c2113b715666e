"""What a run multiplies: `auto` made definite for a device, and TF32 set only for as long.

PyTorch's setting for TF32 is one for the whole process. So it is set around each step and each
measurement, and put back after it: other code of the process, such as a language model that is read
between two steps, multiplies as it did before.
"""

import dataclasses
from collections.abc import Generator
from contextlib import contextmanager

import torch

from ..sae.common.errors import InputError
from .evaluation.config import EvalPrecision
from .trainer_config import Precision, TrainerConfig


def chosen_precision(
    config: TrainerConfig, device: torch.device, weights: torch.dtype = torch.float32
) -> Precision:
    """The precision of the configuration, or what `auto` comes to on the device.

    `auto` is float32 on a CPU, and for weights that are not float32. On a GPU it is bfloat16 where
    the GPU multiplies it natively; TF32 where the dictionary is sharded, whose weights are
    multiplied as they are; float32 on a GPU that has neither.

    Returns:
        float32, tf32 or bfloat16.

    Raises:
        InputError: the configuration asks for TF32, which the device does not have.
    """
    if config.precision != "auto":
        require_multiplied(config.precision, device)
        return config.precision
    if device.type != "cuda" or weights != torch.float32:
        return "float32"
    with torch.cuda.device(device):
        if config.shards == 1 and torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16"
    return "tf32" if _has_tf32(device) else "float32"


def with_precision(
    config: TrainerConfig, device: torch.device, weights: torch.dtype = torch.float32
) -> TrainerConfig:
    """The configuration with a definite precision; see `chosen_precision`, which may raise."""
    precision = chosen_precision(config, device, weights)
    return dataclasses.replace(config, precision=precision)


def measuring_precision(asked: EvalPrecision, device: torch.device) -> EvalPrecision:
    """What autoencoders multiply while they are measured: float32 or tf32 as asked; `auto` is TF32
    on a GPU that has it, else float32.

    Raises InputError if TF32 is asked for and the device does not have it.
    """
    if asked != "auto":
        require_multiplied(asked, device)
        return asked
    return "tf32" if _has_tf32(device) else "float32"


def require_multiplied(precision: str, device: torch.device) -> None:
    """Raise an InputError if the precision is TF32 and the device has no products of that kind."""
    if precision == "tf32" and not _has_tf32(device):
        raise InputError(
            f"precision is tf32, which {device} does not have; give precision float32, or a GPU of "
            "NVIDIA's Ampere generation or later",
            field="precision",
        )


@contextmanager
def products_in(precision: str, device: torch.device) -> Generator[None]:
    """Within the context, float32 products on a GPU are rounded to TF32 or not, as the precision
    says; after it PyTorch's setting is as before. On other devices nothing changes.

    In float32 they are not, whatever the setting was; in bfloat16 the setting stays as it is. It is
    one for all threads of the process: a stream's language model in float32 multiplies by it, too,
    where its pass falls into a step. A value that `torch.backends.fp32_precision` gave is put back
    as the setting's own.
    """
    if device.type != "cuda" or precision == "bfloat16":
        yield
        return
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee" if precision == "float32" else "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _has_tf32(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_tf32_supported()
