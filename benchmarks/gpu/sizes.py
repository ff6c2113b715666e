"""The sizes that the check runs at: those that people train at, and tiny ones for the interpreter.

Bytes and operations that no way of computing can avoid are counted here, for the floors.
"""

from typing import Any, NamedTuple

import torch


class Sizes(NamedTuple):
    """A batch and a dictionary."""

    rows: int
    width: int
    latents: int
    k: int

    def __str__(self) -> str:
        return f"({self.rows:,}, {self.width:,}, {self.latents:,}, {self.k})"

    @property
    def product_flops(self) -> float:
        """Operations of the encoder's product."""
        return 2.0 * self.rows * self.width * self.latents

    @property
    def gathered(self) -> int:
        """Elements of the rows that the codes name, each slot's anew."""
        return self.rows * self.k * self.width

    @property
    def weights(self) -> int:
        """Elements of one matrix."""
        return self.latents * self.width


SMALL = Sizes(8192, 768, 12288, 32)
MIDDLE = Sizes(8192, 2304, 65536, 64)
LARGE = Sizes(8192, 4096, 131072, 64)
TINY = Sizes(8, 16, 24, 2)

PRECISIONS: dict[str, tuple[torch.dtype, bool]] = {
    "bfloat16": (torch.bfloat16, False),
    "tf32": (torch.float32, True),
    "float32": (torch.float32, False),
}
"""Of each the dtype of the operands, and whether products may round them to TF32."""


def allow_tf32(allowed: bool) -> None:
    """Whether float32 products of this process may round their factors."""
    torch.backends.cuda.matmul.fp32_precision = "tf32" if allowed else "ieee"


def trainer_precision(precision: str, kind: str) -> Any:
    """What `TrainerConfig` is asked for: a CPU, on which the check is tried, has no TF32."""
    return "float32" if precision == "tf32" and kind == "cpu" else precision
