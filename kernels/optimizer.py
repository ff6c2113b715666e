"""Unit-norm decoder rows under a gradient method: projection before the step, scaling after it.

`adam_step_` does all of it in place. With g the gradient times the clipping factor, and for unit
rows w less its part along w:
    m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
    w = w - lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon),  then w = w / ||w||.
Triton reads and writes each of w, m, v once, and may write a low-precision copy of w with them.
PyTorch takes blocks of rows that stay in the cache through projection, its fused Adam and scaling,
so that memory is read and written once there too.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .dispatch import Pointer, Scalar, architecture, constexpr, jit, launch, tl, uses_triton
from .numerics import ceil_div, next_power_of_2, row_norms
from .step_numbers import StepNumbers, step_numbers
from .tiles import tile

_VALUES_IN_CACHE = 1 << 20  # of each of the weights, the gradient and two moments: 16 MB in float32
_FLAT_ROW = 1024


@jit
def _adam_kernel(
    weights_ptr: Pointer,  # [F, D] (in and out)
    gradient_ptr: Pointer,  # [F, D]
    first_ptr: Pointer,  # [F, D] (in and out)
    second_ptr: Pointer,  # [F, D] (in and out)
    rounded_ptr: Pointer,  # [F, D] (out) the new weights in another dtype, if ROUNDED
    factor_ptr: Pointer,  # [] factor of the gradient
    applies_ptr: Pointer,  # [] bool, whether there is a step at all
    numbers_ptr: Pointer,  # [3] lr and both corrections, if IN_MEMORY, in place of these:
    lr: Scalar,
    correction1: Scalar,
    correction2: Scalar,
    beta1: Scalar,
    beta2: Scalar,
    epsilon: Scalar,
    D: Scalar,
    N: Scalar,
    UNIT_ROWS: constexpr,
    ROUNDED: constexpr,
    IN_MEMORY: constexpr,
    BLOCK_D: constexpr,
) -> None:
    if IN_MEMORY:
        lr = tl.load(numbers_ptr)
        correction1 = tl.load(numbers_ptr + 1)
        correction2 = tl.load(numbers_ptr + 2)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_D)
    at = row * D + columns
    in_row = (columns < D) & (at < N) & (tl.load(applies_ptr) != 0)
    weights = tl.load(weights_ptr + at, mask=in_row, other=0.0).to(tl.float32)
    gradient = tl.load(gradient_ptr + at, mask=in_row, other=0.0).to(tl.float32)
    gradient *= tl.load(factor_ptr).to(tl.float32)
    if UNIT_ROWS:
        gradient -= tl.sum(gradient * weights, 0) * weights
    first = tl.load(first_ptr + at, mask=in_row, other=0.0)
    second = tl.load(second_ptr + at, mask=in_row, other=0.0)
    first = beta1 * first + (1.0 - beta1) * gradient
    second = beta2 * second + (1.0 - beta2) * gradient * gradient
    weights -= lr * (first / correction1) / (tl.sqrt(second / correction2) + epsilon)
    if UNIT_ROWS:
        norm = tl.sqrt(tl.sum(weights * weights, 0))
        weights = tl.where(norm > 0, weights / norm, weights)
    tl.store(weights_ptr + at, weights.to(weights_ptr.dtype.element_ty), mask=in_row)
    if ROUNDED:
        tl.store(rounded_ptr + at, weights.to(rounded_ptr.dtype.element_ty), mask=in_row)
    tl.store(first_ptr + at, first, mask=in_row)
    tl.store(second_ptr + at, second, mask=in_row)


def _launch_adam(
    weights: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    rounded: Tensor | None,
    factor: Tensor,
    applies: Tensor,
    numbers: StepNumbers | Tensor,
    betas: tuple[float, float],
    epsilon: float,
    unit_rows: bool,
) -> None:
    in_memory = isinstance(numbers, Tensor)
    lr, correction1, correction2 = StepNumbers(1.0, 1.0, 1.0) if in_memory else numbers
    N = weights.numel()
    # Without norms a row means nothing, and a bias of any length is cut into even pieces.
    D = weights.shape[-1] if unit_rows else min(N, _FLAT_ROW)
    sizes = tile("adam", architecture(weights), D=D)
    launch(
        _adam_kernel,
        (ceil_div(N, D) if N else 0,),
        weights_ptr=weights,
        gradient_ptr=gradient.contiguous(),
        first_ptr=first,
        second_ptr=second,
        rounded_ptr=weights if rounded is None else rounded,
        factor_ptr=factor,
        applies_ptr=applies,
        numbers_ptr=numbers if in_memory else weights,
        lr=lr,
        correction1=correction1,
        correction2=correction2,
        beta1=betas[0],
        beta2=betas[1],
        epsilon=epsilon,
        D=D,
        N=N,
        UNIT_ROWS=unit_rows,
        ROUNDED=rounded is not None,
        IN_MEMORY=in_memory,
        BLOCK_D=next_power_of_2(D),
        num_warps=sizes["num_warps"],
    )


@torch.no_grad()
def adam_step_(
    weights: Float[Tensor, "*F D"],
    gradient: Float[Tensor, "*F D"],
    first: Float[Tensor, "*F D"],
    second: Float[Tensor, "*F D"],
    *,
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    unit_rows: bool = False,
    rounded: Float[Tensor, "*F D"] | None = None,
    factor: Float[Tensor, ""] | None = None,
    applies: Bool[Tensor, ""] | None = None,
    in_memory: Float[Tensor, "3"] | None = None,
) -> None:
    """Take one Adam step in place; for unit rows with projected gradient and norm 1 after it.

    Args:
        weights: [F, D] or a bias [D], contiguous; changed in place.
        gradient: as the weights; its content is lost.
        first, second: float32 moments (float64 for float64 weights); changed in place.
        step: the number of this step, from 1.
        lr, betas, epsilon: as of Adam (arXiv 1412.6980).
        unit_rows: keep every row of the weights at norm 1; a zero row stays zero.
        rounded: a copy of the weights in another dtype, contiguous, which gets the new ones.
        factor: scalar on the same device that multiplies the gradient, such as
            `clipping_factor`'s; 1 if None.
        applies: scalar on the same device; where false weights and moments stay as they are. True
            if None.
        in_memory: float32, the step's `step_numbers` on the same device, which the Triton kernel
            reads there in place of `step` and `lr`, to the same bits: a CUDA graph of the step
            then takes whatever they hold when it is replayed.

    Raises:
        ValueError: step is below 1, what is changed in place is not contiguous, or the numbers lie
            in memory where Triton does not run.
    """
    numbers = step_numbers(step, lr, betas)
    written = (weights, first, second, weights if rounded is None else rounded)
    if not all(tensor.is_contiguous() for tensor in written):
        raise ValueError(
            "weights, their copy and moments must be contiguous; they are changed in place"
        )
    if uses_triton(weights):
        one = torch.ones((), device=weights.device) if factor is None else factor
        go = torch.ones_like(one, dtype=torch.bool) if applies is None else applies
        at = numbers if in_memory is None else in_memory
        tensors = weights, gradient, first, second, rounded, one, go
        _launch_adam(*tensors, at, betas, epsilon, unit_rows)
        return
    if in_memory is not None:
        raise ValueError("only the Triton kernel reads a step's numbers from memory")
    if applies is not None and not applies:
        return
    count = torch.tensor(float(step), device=weights.device)
    tensors = weights, gradient, first, second
    for rows in _blocks_in_cache(weights):
        block = tuple(tensor[rows] for tensor in tensors)
        _adam_on_block(block, count, lr, betas, epsilon, unit_rows, factor)
        if rounded is not None:
            rounded[rows].copy_(weights[rows])


def rows_in_cache(n_columns: int) -> int:
    """Rows of so many weights that a CPU's step takes at once."""
    return max(1, _VALUES_IN_CACHE // n_columns)


def _blocks_in_cache(weights: Tensor) -> Iterator[slice]:
    """Slices of the first dimension whose rows a CPU's cache holds; all rows at once on a GPU."""
    n_rows = len(weights)
    if weights.device.type == "cpu" and weights.ndim > 1:
        n_rows = rows_in_cache(weights.shape[1])
    for start in range(0, len(weights), n_rows):
        yield slice(start, start + n_rows)


def _adam_on_block(
    block: tuple[Tensor, ...],
    count: Tensor,
    lr: float,
    betas: tuple[float, float],
    epsilon: float,
    unit_rows: bool,
    factor: Tensor | None,
) -> None:
    weights, gradient, first, second = block
    if factor is not None:
        gradient.mul_(factor)
    if unit_rows:
        project_gradient_(gradient, weights)
    torch._fused_adam_(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage] - what torch.optim.Adam(fused=True) calls
        [weights],
        [gradient],
        [first],
        [second],
        [],
        [count],
        lr=lr,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=0.0,
        eps=epsilon,
        amsgrad=False,
        maximize=False,
    )
    if unit_rows:
        normalize_rows_(weights)


class _Noted(NamedTuple):
    gradient: Tensor
    """An alias, which keeps its memory from being another tensor's."""
    version: int
    """How often it had been changed in place."""
    squares: Tensor


class SquareSums:
    """Sums of squares that kernels took of gradients while they wrote them.

    They are of a gradient only as long as nothing was added to it: its memory and PyTorch's count
    of changes in place are compared.
    """

    def __init__(self) -> None:
        self._noted: dict[str, _Noted] = {}

    def note(self, name: str, gradient: Tensor, squares: Float[Tensor, "..."]) -> None:
        """Keep parts of a gradient's sum of squares, in place of those of the one before."""
        self._noted[name] = _Noted(gradient.detach(), _version(gradient), squares)

    def take(self) -> list[_Noted]:
        """What was noted, which is forgotten."""
        noted, self._noted = list(self._noted.values()), {}
        return noted


def _version(tensor: Tensor) -> int:
    return tensor._version  # pyright: ignore[reportPrivateUsage] - documented


@torch.no_grad()
def gradient_norm(
    gradients: Iterable[Tensor], squares: SquareSums | None = None
) -> Float[Tensor, ""]:
    """The norm of all gradients together in float32, on their device and without waiting.

    Gradients whose sums of squares are noted are not read; these are then forgotten.
    """
    noted = (
        {} if squares is None else {(n.gradient.data_ptr(), n.version): n for n in squares.take()}
    )
    norms: list[Tensor] = []
    for gradient in gradients:
        known = noted.get((gradient.data_ptr(), _version(gradient)))
        if known is not None and known.gradient.shape == gradient.shape:
            norms.append(known.squares.sum().sqrt())
        else:
            norms.append(torch.linalg.vector_norm(gradient).float())  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] - untyped builtin
    return torch.linalg.vector_norm(torch.stack(norms))  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - untyped builtin


def clipping_factor(norm: Float[Tensor, ""], max_norm: float) -> Float[Tensor, ""]:
    """min(1, max_norm / norm). NaN and infinity stay visible: they give NaN or 0."""
    return (max_norm / norm).clamp(max=1.0)


def project_gradient_(
    gradient: Float[Tensor, "*F D"], weights: Float[Tensor, "*F D"]
) -> Float[Tensor, "*F D"]:
    """Remove in place from each gradient row its part along the (unit) row of the weights.

    A step along a row only changes its length, which `normalize_rows_` takes back; without the
    projection that part would still fill the optimizer's moments.
    """
    # Not einsum: on a CPU it is a batched product of one row each, four times slower.
    along_F1 = (gradient * weights).sum(-1, keepdim=True)
    return gradient.addcmul_(along_F1, weights, value=-1)


def normalize_rows_(weights: Float[Tensor, "*F D"]) -> Float[Tensor, "*F D"]:
    """Scale every row to norm 1 in place; a zero row stays zero."""
    norms_F1 = row_norms(weights).unsqueeze(-1)
    return weights.div_(norms_F1.clamp(min=torch.finfo(weights.dtype).tiny))
