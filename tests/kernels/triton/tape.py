"""What a CUDA graph does, without CUDA: operators and launches are noted with their very tensors,
and repeated without any Python of what was recorded.

So whatever the host decided while it recorded stays, as in a graph: numbers that were arguments,
tensors that were read, shapes. What the recording itself computed is undone, since a capture runs
nothing.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,  # pyright: ignore[reportPrivateUsage]
)
from torch.utils._pytree import tree_leaves

T = TypeVar("T")


class Tape:
    """A `Recorder` for kernels in Triton's interpreter.

    Attributes:
        n_recorded: calls that were recorded.
        n_replayed: replays.
    """

    def __init__(self) -> None:
        self.n_recorded = self.n_replayed = 0

    def warming_up(self) -> AbstractContextManager[None]:
        return nullcontext()

    def forget(self) -> None:
        pass

    def record(self, call: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        recording = _Recording()
        with recording.of_launches(), recording:
            result = call()
        recording.undo()
        self.n_recorded += 1

        def replay() -> None:
            self.n_replayed += 1
            with torch.no_grad():
                for repeat in recording.calls:
                    repeat()

        return result, replay


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType] - untyped
        self.calls: list[Callable[[], None]] = []
        self._made: dict[int, Tensor] = {}  # by address: kept, so that no other gets it
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "sparsteer":
            operators: Any = import_module("torch._library.custom_ops").OPDEFS
            with self:
                return operators[func._schema.name]._init_fn(*args, **kwargs)
        inputs = _tensors((args, kwargs))
        self._note(inputs)
        result = func(*args, **kwargs)
        addresses = {_address(tensor) for tensor in inputs}
        new = [t.detach() for t in _tensors(result) if _address(t) not in addresses]
        self._made |= {_address(tensor): tensor for tensor in new}
        places = [place for place, t in enumerate(_tensors(result)) if _address(t) not in addresses]

        def repeat() -> None:
            again = _tensors(func(*args, **kwargs))
            for place, tensor in zip(places, new, strict=True):
                tensor.copy_(again[place])

        self.calls.append(repeat)
        return result

    @contextmanager
    def of_launches(self) -> Generator[None]:
        """Launches are noted, too, and what the interpreter does in them is not."""
        interpreter: Any = import_module("triton.runtime.interpreter")
        original = interpreter.InterpretedFunction.run

        def run(kernel: Any, *args: Any, **arguments: Any) -> None:
            with _disable_current_modes():
                self._note(_tensors((args, arguments)))
                original(kernel, *args, **arguments)
            self.calls.append(lambda: original(kernel, *args, **arguments))

        with patch.object(interpreter.InterpretedFunction, "run", run):
            yield

    def _note(self, tensors: list[Tensor]) -> None:
        """Keep what tensors from outside hold, before anything changes them."""
        for tensor in tensors:
            address = _address(tensor)
            if address not in self._made and address not in self._before:
                # Not `detach`: what is undone was no change, and PyTorch is to count none.
                whole = tensor.data.as_strided((_n_elements(tensor),), (1,), 0)
                self._before[address] = whole, whole.clone()

    def undo(self) -> None:
        """Let all tensors from outside hold what they held."""
        for whole, before in self._before.values():
            whole.copy_(before)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _n_elements(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() // tensor.element_size()
