"""Small helpers of many operators: row norms, wide dtypes, integers for tiles, blocks of rows."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor


def row_norms(x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
    """The Euclidean norm over the last dimension; its gradient is 0 where the row is 0."""
    return torch.linalg.vector_norm(x, dim=-1)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - untyped builtin


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype for sums of values of this one: float32 for bfloat16 and float16, else itself."""
    return torch.promote_types(dtype, torch.float32)


def wide_product(left: Float[Tensor, "A B"], right: Float[Tensor, "B C"]) -> Float[Tensor, "A C"]:
    """The product in at least float32, as its sums are taken."""
    wide = at_least_float32(left.dtype)
    if left.dtype == wide:
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=wide)
    return left.to(wide) @ right.to(wide)


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least n (n >= 1)."""
    return 1 << (n - 1).bit_length()


def row_blocks(n_rows: int, rows_at_once: int) -> Iterator[slice]:
    """Slices of `rows_at_once` rows that cover n_rows rows; the last may be shorter."""
    for start in range(0, n_rows, rows_at_once):
        yield slice(start, min(start + rows_at_once, n_rows))
