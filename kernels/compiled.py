"""Loops over rows for a CPU, compiled by numba, and the threads that share the rows.

PyTorch's operators each read and write whole tensors. Where a row's work is many short steps on
data that fits in the cache, a compiled loop reads the row once. Loops see NumPy's views of tensors
(`Tensor.numpy()`), know no Python objects and release the interpreter's lock. Each row is computed
alone, so the number of threads changes no result.
"""

import inspect
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar, cast

import numba
import torch

from .numerics import row_blocks

# NaN and infinity keep their meaning; sums may be taken in any order, which one machine always
# takes alike.
_MATHS = {"reassoc", "contract", "nsz"}
_ROWS_OF_A_TASK = 64

P = ParamSpec("P")
R = TypeVar("R")

_pool: ThreadPoolExecutor | None = None
_pool_threads = 0


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function in machine code, compiled at its first call and kept beside its source, or in
    the user's cache where that folder cannot be written, or in memory where neither can."""
    # Run-time type checkers wrap functions; the compiler needs the one beneath.
    function = inspect.unwrap(function)
    decorate = cast(Any, numba.njit)  # pyright: ignore[reportUnknownMemberType] - untyped
    options: dict[str, Any] = {"nogil": True, "fastmath": _MATHS, "error_model": "numpy"}
    try:
        return cast(Callable[P, R], decorate(cache=True, **options)(function))
    except RuntimeError:  # no folder for the cache
        return cast(Callable[P, R], decorate(**options)(function))


def over_rows(loop: Callable[..., None], n_rows: int, *arguments: object) -> None:
    """Call loop(start, stop, *arguments) for parts of the rows that cover 0 to n_rows, in as many
    threads as PyTorch uses, and wait for all of them."""
    parts = list(row_blocks(n_rows, _ROWS_OF_A_TASK))
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) == 1:
        loop(0, n_rows, *arguments)
        return
    submit = _threads(threads).submit
    tasks: list[Future[None]] = [submit(loop, part.start, part.stop, *arguments) for part in parts]
    for task in tasks:
        task.result()


def _threads(n: int) -> ThreadPoolExecutor:
    global _pool, _pool_threads
    if _pool is None or _pool_threads != n:
        _pool, _pool_threads = ThreadPoolExecutor(n, "sparsteer-rows"), n
    return _pool


def _forget_threads() -> None:
    global _pool
    _pool = None  # a forked process has none of them


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
