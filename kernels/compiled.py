"""Loops over rows for a CPU, compiled by numba, and the threads that share the rows.

PyTorch's operators each read and write whole tensors. Where a row's work is many short steps on
data that fits in the cache, a compiled loop reads the row once. Loops see NumPy's views of tensors
(`Tensor.numpy()`), know no Python objects and release the interpreter's lock. Each row is computed
alone, so the number of threads changes no result. They check no bounds: whoever calls them has
checked shapes, dtypes and indices.
"""

import inspect
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
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
    """The function in machine code, compiled at its first call.

    The code is kept beside its source, or in the user's cache where that folder cannot be written.
    It is compiled anew where that fails, where what is kept is damaged, or where the source of any
    compiled function has changed since, for these are compiled into each other.
    """
    # Run-time type checkers wrap functions; the compiler needs the one beneath.
    function = inspect.unwrap(function)
    decorate = cast(Any, numba.njit)  # pyright: ignore[reportUnknownMemberType] - untyped
    options: dict[str, Any] = {"nogil": True, "fastmath": _MATHS, "error_model": "numpy"}
    try:
        loop = decorate(cache=True, **options)(function)
        stored = loop._cache._cache_file
        stored._source_stamp = (stored._source_stamp, _sources())
        loop._cache = _Cache(loop._cache)
    except (RuntimeError, AttributeError):  # no folder for it, or another numba
        loop = decorate(**options)(function)
    return cast(Callable[P, R], loop)


@cache
def _sources() -> str:
    """Tells one state of the compiled functions' sources from another."""
    digest = sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        text = path.read_bytes()
        if b"import compiled" in text or path == Path(__file__):
            digest.update(text)
    return digest.hexdigest()


class _Cache:
    """numba's cache of machine code, without which functions are compiled anew."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def load_overload(self, *arguments: Any) -> Any:
        try:
            return self._cache.load_overload(*arguments)
        except Exception:  # whatever a damaged pickle raises
            self._without_failing(self._cache.flush)
            return None

    def save_overload(self, *arguments: Any) -> None:
        self._without_failing(self._cache.save_overload, *arguments)

    def _without_failing(self, do: Callable[..., Any], *arguments: Any) -> None:
        with suppress(Exception):  # such as of a full disk
            do(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)


def over_rows(loop: Callable[..., None], n_rows: int, *arguments: object) -> None:
    """Call loop(start, stop, *arguments) for parts of the rows that cover 0 to n_rows, in as many
    threads as PyTorch uses, and wait for all of them."""
    parts = list(row_blocks(n_rows, _ROWS_OF_A_TASK))
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) == 1:
        loop(0, n_rows, *arguments)
        return
    submit = _threads(threads).submit
    try:
        tasks = [submit(loop, part.start, part.stop, *arguments) for part in parts]
    except RuntimeError:  # the interpreter is ending, and starts no thread any more
        loop(0, n_rows, *arguments)
        return
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
