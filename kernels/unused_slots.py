"""What the Triton selections write to the slots of a row that hold no latent of it."""

from .dispatch import Pointer, Scalar, constexpr, jit, tl


@jit
def zero_unused(
    indices_ptr: Pointer,  # [M] (out)
    values_ptr: Pointer,  # [M] (out)
    used: Scalar,
    M: Scalar,
    EMIT: constexpr,
) -> None:
    """Make the slots from `used` on (index 0, value 0)."""
    for start in range(0, M, EMIT):
        slots = start + tl.arange(0, EMIT)
        unused = (slots >= used) & (slots < M)
        zeros = tl.zeros([EMIT], tl.int64)
        tl.store(indices_ptr + slots, zeros, mask=unused)
        tl.store(values_ptr + slots, zeros.to(values_ptr.dtype.element_ty), mask=unused)


@jit
def nan_row(
    indices_ptr: Pointer,  # [M] (out)
    values_ptr: Pointer,  # [M] (out)
    M: Scalar,
    EMIT: constexpr,
) -> None:
    """Mark a row that does not fit in its slots: index 0, value NaN in all of them."""
    for start in range(0, M, EMIT):
        slots = start + tl.arange(0, EMIT)
        zeros = tl.zeros([EMIT], tl.int64)
        nan = tl.full([EMIT], float("nan"), tl.float32)
        tl.store(indices_ptr + slots, zeros, mask=slots < M)
        tl.store(values_ptr + slots, nan.to(values_ptr.dtype.element_ty), mask=slots < M)
