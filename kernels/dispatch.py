"""Which implementation an operator runs: Triton on a GPU, PyTorch or compiled loops elsewhere.

It is decided at each call, which takes the Triton kernels if its tensors lie on an NVIDIA GPU and
have a dtype the kernels compute without loss (float64 has none). Triton missing or outside the
tested versions is an error that names the remedy, not a slower path; `SPARSTEER_KERNELS=eager`
chooses PyTorch on purpose, on a GPU; a CPU's compiled loops stay.
With `TRITON_INTERPRET=1` the kernels run on CPU tensors, slowly, for tests.

Every launch goes through `launch`. Tile shapes come from a fixed table, never from tuning at run
time, so that a run repeats bit for bit; `SPARSTEER_TILES` overrides single entries of it.
"""

import inspect
import os
import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

_OLDEST, _NEWEST = (3, 6), (3, 9)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class _NoLanguage:
    """Stands in for triton.language where kernels are defined but can never run."""

    constexpr = Any


try:
    _triton: Any = import_module("triton")
    tl: Any = import_module("triton.language")
    _import_error = ""
except ImportError as error:  # not every platform has Triton, and the CPU needs none
    _triton, tl, _import_error = None, _NoLanguage, str(error)

INTERPRETED: bool = _triton is not None and bool(_triton.knobs.runtime.interpret)

# How kernels annotate their parameters. Type checkers cannot see into Triton's language.
if TYPE_CHECKING:
    Pointer = Block = Scalar = constexpr = Any
else:
    constexpr = tl.constexpr  # compiled in; Triton knows it by this very name

    class Pointer:
        """The address of a tensor's first element; launches pass the tensor."""

        __triton_builtin__ = True  # kernels may name it

    class Block:
        """A tensor of values inside one program."""

        __triton_builtin__ = True

    class Scalar:
        """One number, given or computed by the program."""

        __triton_builtin__ = True


def jit(function: Callable[..., Any]) -> Any:
    """`triton.jit` of the plain function; the function itself where there is no Triton."""
    if _triton is None:
        return function
    # Run-time type checkers wrap functions, but Triton needs the source and the globals beneath.
    return _triton.jit(inspect.unwrap(function))


def triton_version() -> str | None:
    """The installed Triton's version, None where it cannot be imported."""
    return None if _triton is None else _triton.__version__


@cache
def triton_problem() -> str | None:
    """Why the Triton kernels cannot run on a GPU here, with the remedy; None if they can."""
    tested = f"{_OLDEST[0]}.{_OLDEST[1]} to {_NEWEST[0]}.{_NEWEST[1]}"
    remedy = (
        f"install a Triton from {tested} (PyTorch 2.11 to 2.13 bring one), "
        "or set SPARSTEER_KERNELS=eager to run plain PyTorch operators on the GPU"
    )
    if _triton is None:
        return f"Triton cannot be imported ({_import_error}); {remedy}"
    if torch.version.hip is not None:
        return (
            "this PyTorch is built for AMD GPUs, where the kernels are untested; "
            "set SPARSTEER_KERNELS=eager"
        )
    version = tuple(int(part) for part in re.findall(r"\d+", _triton.__version__)[:2])
    if not _OLDEST <= version <= _NEWEST:
        return (
            f"Triton {_triton.__version__} is installed, but the kernels are tested with {tested}; "
            f"{remedy}"
        )
    return None


def uses_triton(tensor: Tensor) -> bool:
    """Whether an operator on this tensor runs its Triton kernels.

    Raises:
        RuntimeError: the tensor is on a GPU where the kernels cannot run, or SPARSTEER_KERNELS
            holds something else than `triton` or `eager`.
    """
    if tensor.dtype not in _DTYPES or not (tensor.is_cuda or INTERPRETED):
        return False
    choice = os.environ.get("SPARSTEER_KERNELS", "triton")
    if choice not in ("triton", "eager"):
        raise RuntimeError(f"SPARSTEER_KERNELS is {choice!r}, but must be triton or eager")
    if choice == "eager":
        return False
    if tensor.is_cuda and (problem := triton_problem()):
        raise RuntimeError(problem)
    return True


def launch(
    kernel: Any, grid: tuple[int, ...], *, num_warps: int, num_stages: int = 3, **arguments: Any
) -> None:
    """Run a kernel over the grid on the device of its tensors; an empty grid runs nothing."""
    if 0 in grid:
        return
    device = next(value.device for value in arguments.values() if isinstance(value, Tensor))
    # Triton launches on the current device, whichever its tensors lie on.
    with torch.cuda.device(device if device.type == "cuda" else -1):
        kernel[grid](num_warps=num_warps, num_stages=num_stages, enable_fp_fusion=True, **arguments)


def architecture(tensor: Tensor) -> int:
    """The GPU's compute capability as one number: 80, 90, 100, 120."""
    if not tensor.is_cuda:
        return 90
    return _capability(tensor.device.index)


@cache
def _capability(index: int | None) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor
