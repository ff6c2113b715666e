"""What a training step asks of a GPU, counted without one: kernels launched, waits, bytes moved.

`counted` runs a call on tensors of the device `meta`, which have shapes and no values, while they
pass for CUDA tensors. So the operators take the paths of a GPU, at real sizes, within a fraction of
a second. Every ATen operator is seen, also within this package's own operators, and Triton kernels
are noted in place of being run. What is counted:

launches: kernels. An operator is one, a view or an allocation none; an operator that runs several
    counts as many as `KERNELS_OF` says, among them a sort. A Triton launch is one.
waits: operators for whose result the host waits: the value of a tensor, a size that depends on
    data, a copy to memory of the host or from such that is not pinned. The one number that a step
    reads late, through `PendingHostCopy`, is none: its copy is counted as a launch.
bytes: read and written, each tensor once: of ATen operators by their arguments and results, of
    Triton launches by their tensors. Rows that a Triton kernel gathers repeatedly count once.

A size that depends on data must be guessed: see `Guesses`.
"""

import math
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparsteer.kernels import dispatch
from sparsteer.training import trainer as trainer_module

_SORT = 8
KERNELS_OF = {
    # A radix sort: what fills the indices, a histogram, a scan, a pass over the keys for each of
    # their 1 to 4 bytes, and copies around them.
    "sort": _SORT,
    "topk": 4,
    "cumsum": 2,
    "nonzero": 4,
    "bincount": 4,
    "dot": 2,
    "mse_loss": 2,
    "constant_pad_nd": 2,
}
"""Kernels of the operators that launch more than one on CUDA, roughly, by their sources; none was
measured. `index_put` with accumulation sorts, and masks as indices search first."""
_OF_AN_ACCUMULATION = _SORT + 2
_GATHERS = ("index", "gather", "index_select", "embedding")
_OF_LISTED_ROWS = ("products_kernel", "select_kernel")
_INDEX_PUTS = ("index_put", "index_put_", "_index_put_impl_")
_SCATTERS = ("index_put_", "_index_put_impl_", "scatter_", "scatter_add_", "index_add_")
_FILLS = ("fill_", "zero_", "zeros", "ones", "full", "arange", "new_zeros", "new_ones", "new_full")
_LIKE = ("zeros_like", "ones_like", "full_like")
_ALLOCATIONS = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "detach")
_NO_KERNEL = (*_ALLOCATIONS, "lift_fresh", "is_pinned", "resize_", "device", "squeeze_")


@dataclass
class Guesses:
    """Sizes that depend on data, as a host would read them from the GPU."""

    rows: int
    latents: int
    k: int
    """Mean active latents of a row. The widest row is guessed to have twice as many, and candidates
    that are looked at more closely to be a tenth more."""
    n_dead: int

    @property
    def unverified(self) -> int:
        """Rows that the fused encoder encodes again."""
        return math.ceil(0.002 * self.rows)

    def size_of(self, mask: Tensor) -> int:
        """How many elements of a mask are true."""
        if mask.shape == (self.latents,):
            return self.n_dead
        if mask.shape == (self.rows,):
            return self.unverified
        return min(mask.numel(), self.rows * self.k)

    def number(self, is_total: bool) -> int:
        """A number that the host reads: of candidates in all, or of the latents of a row."""
        return self.rows * self.k * 11 // 10 if is_total else 2 * self.k


class Operand(NamedTuple):
    """What is told of a tensor; the tensor itself would be copied if anybody else held it."""

    shape: tuple[int, ...]
    bytes: int
    """Of all elements."""
    identity: int
    """The same for the same tensor within one operation."""


class Operation(NamedTuple):
    """One operator or Triton kernel, as it was called."""

    name: str
    launches: int
    bytes: int
    operands: dict[str, Operand]
    """Of a kernel by its parameters, of an operator by their places."""
    flags: dict[str, bool]
    """What is compiled into a kernel and is true or false."""
    numbers: tuple[Any, ...] = ()
    """What it was given besides tensors, in order: a CUDA graph of it repeats it with these."""


@dataclass
class Count:
    """What a call asks of a GPU."""

    launches: int = 0
    waits: int = 0
    bytes: int = 0
    by_kernel: Counter[str] = field(default_factory=Counter[str])
    """Launches by the name of the operator or Triton kernel."""
    by_wait: Counter[str] = field(default_factory=Counter[str])
    """Waits by the name of the operator."""
    operations: list[Operation] = field(default_factory=list[Operation])
    """What was launched, in order."""

    def add(
        self,
        name: str,
        n_launches: int,
        n_bytes: int,
        operands: dict[str, Tensor] | None = None,
        flags: dict[str, bool] | None = None,
        numbers: tuple[Any, ...] = (),
    ) -> None:
        told = {
            key: Operand(tuple(tensor.shape), tensor.numel() * tensor.element_size(), id(tensor))
            for key, tensor in (operands or {}).items()
        }
        self.operations.append(Operation(name, n_launches, n_bytes, told, flags or {}, numbers))
        self.launches += n_launches
        self.bytes += n_bytes
        self.by_kernel[name] += n_launches

    def wait(self, name: str) -> None:
        self.waits += 1
        self.by_wait[name] += 1


class _CountingMode(TorchDispatchMode):
    """Counts ATen operators, and answers those that need values, which meta tensors lack."""

    def __init__(self, count: Count, guesses: Guesses) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType] - untyped
        self._count = count
        self._guesses = guesses
        self._totals: set[int] = set()  # ids of the tensors below
        self._kept: list[Tensor] = []  # running totals and what was taken of them

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "sparsteer":  # what it does on a GPU, not what it says of its shapes
            with self:
                return _implementation(func)(*args, **kwargs)
        name = func.overloadpacket.__name__
        waits, result = self._answered(name, func, args, kwargs)
        if waits:
            self._count.wait(name)
        if not waits or name != "_local_scalar_dense":
            inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            if any(tensor.is_meta for tensor in (*inputs, *outputs)):
                accumulates = name in _INDEX_PUTS and (
                    kwargs.get("accumulate") or True in args[3:4]
                )
                n_launches = _OF_AN_ACCUMULATION if accumulates else KERNELS_OF.get(name, 1)
                self._note(name, func, n_launches, inputs, outputs, _numbers((args, kwargs)))
        if name == "cumsum" or (name in ("max", "amax") and id(args[0]) in self._totals):
            self._totals.add(id(result))
            self._kept.append(result)
        return result

    def _answered(
        self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[bool, Any]:
        """Whether a GPU's host would wait, and the result."""
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if first is None:
            return False, func(*args, **kwargs)
        sizes, on_gpu = self._guesses, first.is_meta
        if name == "_local_scalar_dense" and on_gpu:
            number = sizes.number(id(first) in self._totals)
            return True, bool(number) if first.dtype == torch.bool else number
        if name == "nonzero" and on_gpu:
            return True, first.new_empty(sizes.size_of(first), first.ndim, dtype=torch.int64)
        if name == "bincount" and on_gpu:
            n_bins = kwargs["minlength"] if "minlength" in kwargs else args[2]
            return True, first.new_empty(n_bins, dtype=torch.int64)
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            return on_gpu, first.new_empty(sizes.rows * sizes.k, dtype=torch.int64)
        if name in ("index", *_INDEX_PUTS):
            masks = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
            return masks, self._masked(func, args, kwargs) if masks else func(*args, **kwargs)
        if name == "_to_copy":
            device = torch.device(kwargs.get("device") or first.device)
            if on_gpu and device.type == "cpu":
                dtype = kwargs.get("dtype") or first.dtype
                return True, torch.full(first.shape, sizes.number(is_total=False), dtype=dtype)
            return device.type == "meta" and not on_gpu, func(*args, **kwargs)
        return False, func(*args, **kwargs)

    def _masked(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Indexing with masks: with the positions of as many elements as are guessed."""
        index: list[Tensor | None] = []
        for i in args[1]:
            if i is None or i.dtype not in (torch.bool, torch.uint8):
                index.append(i)
                continue
            n_found = self._guesses.size_of(i)
            index += [i.new_empty(n_found, dtype=torch.int64) for _ in range(i.ndim)]
        return func(args[0], index, *args[2:], **kwargs)

    def _note(
        self,
        name: str,
        func: Any,
        n_launches: int,
        inputs: list[Tensor],
        outputs: list[Tensor],
        numbers: tuple[Any, ...],
    ) -> None:
        if name in _NO_KERNEL or func.is_view or (outputs and not any(map(_n_bytes, outputs))):
            return
        if name in _FILLS or name in _LIKE:
            n_bytes = sum(map(_n_bytes, outputs))
        elif name in _GATHERS:
            n_bytes = 2 * sum(map(_n_bytes, outputs)) + sum(map(_n_bytes, inputs[1:]))
        elif name in _SCATTERS:
            n_bytes = 2 * sum(map(_n_bytes, inputs[1:]))
        else:
            n_bytes = sum(map(_n_bytes, _each_once(inputs))) + sum(map(_n_bytes, outputs))
        operands = {str(place): tensor for place, tensor in enumerate([*inputs, *outputs])}
        self._count.add(name, n_launches, n_bytes, operands, numbers=numbers)


class _FromHostMode(TorchFunctionMode):
    """Counts numbers of the host that become tensors: they are copied, and waited for."""

    def __init__(self, count: Callable[[], Count]) -> None:
        super().__init__()
        self._count = count

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in ("tensor", "as_tensor", "new_tensor") and result.is_meta:
            self._count().add(name, 1, _n_bytes(result))
            self._count().wait(name)
        return result


def _n_bytes(tensor: Tensor) -> int:
    """What lies in memory: of an expanded tensor its elements once."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return tensor.element_size() * math.prod(sizes) if tensor.numel() else 0


def _numbers(values: Any) -> tuple[Any, ...]:
    return tuple(leaf for leaf in tree_leaves(values) if not isinstance(leaf, Tensor))


def _each_once(tensors: list[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _implementation(func: Any) -> Callable[..., Any]:
    """The Python function of one of this package's own operators."""
    operators: Any = import_module("torch._library.custom_ops").OPDEFS
    return operators[func._schema.name]._init_fn


class _LateNumbers:
    """In place of `PendingHostCopy`: finite loss, as many dead latents as guessed, else 0."""

    def __init__(self, count: Count, n_dead: int, numbers: Tensor) -> None:
        count.add("copy of numbers that are read late", 1, 2 * _n_bytes(numbers))
        self._numbers = [1, n_dead, *[0] * (len(numbers) - 2)]

    def wait(self) -> list[int]:
        return self._numbers


@contextmanager
def on_meta(guesses: Guesses, architecture: int = 90) -> Generator[Callable[[], Count]]:
    """Meta tensors pass for CUDA tensors within; gives a call that starts a new count.

    Raises RuntimeError where kernels are interpreted, or there is no Triton.
    """
    if dispatch.INTERPRETED or dispatch.triton_version() is None:
        raise RuntimeError("steps are counted with Triton installed and without TRITON_INTERPRET")
    jit_function: Any = import_module("triton.runtime.jit").JITFunction
    count = Count()

    def restart() -> Count:
        nonlocal count
        done, count = count, Count()
        mode._count = count  # pyright: ignore[reportPrivateUsage]
        return done

    def launched(kernel: Any, *_: Any, grid: Any, **arguments: Any) -> None:
        name = kernel.__name__.strip("_")
        tensors = {key: value for key, value in arguments.items() if isinstance(value, Tensor)}
        n_bytes = sum(map(_n_bytes, _each_once([*tensors.values()])))
        if name in _OF_LISTED_ROWS:  # which are few: of the buffer for all rows hardly any is used
            used = guesses.unverified / len(arguments["pre_ptr"])
            n_bytes -= round(_n_bytes(arguments["pre_ptr"]) * (1 - min(1.0, used)))
        flags = {key: value for key, value in arguments.items() if isinstance(value, bool)}
        count.add(name, 1, n_bytes, tensors, flags, _numbers((grid, arguments)))

    def late(numbers: Tensor) -> _LateNumbers:
        return _LateNumbers(count, guesses.n_dead, numbers)

    mode = _CountingMode(count, guesses)

    def capability(_: int | None) -> int:
        return architecture

    def is_cuda(tensor: Tensor) -> bool:
        return tensor.is_meta

    with (
        patch.object(jit_function, "run", launched),
        patch.object(dispatch, "_capability", capability),
        patch.object(Tensor, "is_cuda", property(is_cuda), create=True),
        patch.object(trainer_module, "PendingHostCopy", late),
        _FromHostMode(lambda: count),
        mode,
    ):
        yield restart
