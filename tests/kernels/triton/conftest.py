"""The Triton kernels in the interpreter (a process of its own) or, where there is one, on a GPU.

`TRITON_INTERPRET=1` must be set before Triton is imported, so these files are collected only in
such a process, which `tests/kernels/test_kernels_on_triton.py` starts, or where CUDA is available.
"""

import os
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRETED or torch.cuda.is_available() else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/kernels/triton" in item.path.as_posix() and not INTERPRETED:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def device() -> str:
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every buffer starts as NaN or as a huge index, so that an unwritten element shows."""

    def poison(tensor: Tensor) -> Tensor:
        return tensor.fill_(torch.nan if tensor.is_floating_point() else 99_999)

    for owner, name in [
        (torch, "empty"),
        (torch, "empty_like"),
        (Tensor, "new_empty"),
    ]:
        original = getattr(owner, name)

        def filled(*args: Any, original: Any = original, **kwargs: Any) -> Tensor:
            return poison(original(*args, **kwargs))

        monkeypatch.setattr(owner, name, filled)
    yield


@pytest.fixture(autouse=True)
def products_of_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter multiplies the bits of bfloat16 as integers: widen them first."""
    if not INTERPRETED:
        return
    import numpy as np

    tl: Any = import_module("triton.language")  # Triton is untyped
    interpreter: Any = import_module("triton.runtime.interpreter")
    original = interpreter.InterpreterBuilder.create_dot

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        bits = handle.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(builder: Any, a: Any, b: Any, *rest: Any) -> Any:
        return original(builder, widened(a), widened(b), *rest)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture(autouse=True)
def rounding_to_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter cuts float32 off to bfloat16, where GPUs round to the nearest."""
    if not INTERPRETED:
        return
    tl: Any = import_module("triton.language")
    interpreter: Any = import_module("triton.runtime.interpreter")
    original = interpreter.InterpreterBuilder.create_fp_trunc

    def create_fp_trunc(builder: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar != tl.float32 or target.scalar != tl.bfloat16:
            return original(builder, source, target)
        bits = torch.asarray(source.data).bfloat16().view(torch.uint16).numpy()
        return interpreter.TensorHandle(bits, tl.bfloat16)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_fp_trunc", create_fp_trunc)


@pytest.fixture(autouse=True)
def scalars_of_one_element(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.6's interpreter makes numbers of one-element arrays, which NumPy 2.4 refuses."""
    if not INTERPRETED:
        return
    interpreter: Any = import_module("triton.runtime.interpreter")
    original = interpreter._patch_lang_tensor

    def index(tensor: Any) -> int:
        return int(tensor.handle.data.squeeze())

    def patch(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", index)

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch)
