"""CUDA graphs of training steps: where they may be used, which step takes which, and recording one.

A graph holds the kernels of a step with all their arguments. It can hold the next step, too, if
everything that differs lies in memory: the batch, the learning rate, which latents are dead. What
decides about shapes selects another graph, see `StepKind`; any other step runs as without graphs.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch

from ..kernels.dispatch import uses_triton
from ..sae.common.errors import InputError
from ..sae.common.text import first_line

T = TypeVar("T")

WARM_UPS = 2
"""Steps of a kind that are made before it is recorded: kernels must be compiled by then."""

_FEWEST_PLACES = 128
_PARTS_OF_A_DOUBLING = 4


class StepKind(NamedTuple):
    """What all steps that one graph holds have in common, besides the shape of the batch."""

    dead_places: int
    """Length of the list of dead latents, padded."""
    k: int | None
    """Latents of a row, where that is not the configuration's."""


Way = Literal["eager", "warm up", "record", "replay"]
"""How a step is made. Of those but the first each prepares the next."""


def padded_dead(n_dead: int, n_latents: int) -> int:
    """Places of a list of so many dead latents: 0, or from 128 on the next of four lengths between
    powers of two, so at most a quarter more than needed; n_latents at most."""
    if n_dead == 0:
        return 0
    places = max(n_dead, _FEWEST_PLACES)
    step = max(1, 2 ** ((places - 1).bit_length() - 1) // _PARTS_OF_A_DOUBLING)
    return min(n_latents, -(-places // step) * step)


def way_of_step(
    *,
    measured: bool,
    same_batch: bool,
    k_falls: bool,
    copies_current: bool,
    n_warm_ups: int,
    is_recorded: bool,
) -> Way:
    """How to make a step.

    Args:
        measured: whether its measures are wanted, which no graph takes.
        same_batch: whether its batch has the shape and dtype of those that are recorded.
        k_falls: whether the number of latents of a row is still falling, and soon another.
        copies_current: whether the low-precision copies of the weights are those that the step
            before wrote; a graph makes none anew.
        n_warm_ups: steps that have prepared the recording of this kind.
        is_recorded: whether there is a graph of this kind.
    """
    if measured or not same_batch or k_falls or not copies_current:
        return "eager"
    if is_recorded:
        return "replay"
    return "warm up" if n_warm_ups < WARM_UPS else "record"


def require_graphs(device: torch.device, world_size: int) -> None:
    """Raise an InputError where steps cannot be recorded."""
    why = None
    if world_size > 1:
        why = f"{world_size} processes talk to each other in a step, which a graph does not hold"
    elif device.type != "cuda":
        why = f"training runs on {device}, and only an NVIDIA GPU has such graphs"
    elif not uses_triton(torch.empty(0, device=device)):
        why = "with SPARSTEER_KERNELS=eager a step waits for the GPU, as a graph cannot"
    if why is not None:
        raise InputError(f"cuda_graph is on, but {why}; leave it out", field="cuda_graph")


@runtime_checkable
class Recorder(Protocol):
    """Records calls for a device, to be replayed."""

    def warming_up(self) -> AbstractContextManager[None]:
        """Within it steps are made that are soon to be recorded."""
        ...

    def record(self, call: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """What the call gives, with nothing in its tensors yet, and a replay that fills them."""
        ...

    def forget(self) -> None:
        """Nothing that was recorded is replayed any more."""
        ...


class CudaRecorder:
    """Records CUDA graphs, which share their memory: no two may run at once.

    A replay overwrites whatever another one left there, so that only what was allocated before
    outlasts a step.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # PyTorch hands out few streams in turn, those of a priority apart from others: what else is
        # queued on this one while it records, such as a copy ahead, would end up in the graph.
        self._stream = torch.cuda.Stream(device, priority=-1)
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def warming_up(self) -> Generator[None]:
        """Work goes to the stream on which graphs are recorded, behind what the current one has to
        do and before what it is given afterwards."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def record(self, call: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Raises RuntimeError if the call does what a graph cannot hold."""
        graph = torch.cuda.CUDAGraph()
        recording = torch.cuda.graph(
            graph,
            pool=self._pool,
            stream=self._stream,
            # Threads that read ahead may allocate and copy meanwhile.
            capture_error_mode="thread_local",
        )
        try:
            with torch.cuda.device(self._device), recording:
                result = call()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RuntimeError(
                f"the step could not be recorded as a CUDA graph ({first_line(error)}); begin "
                "another run without cuda_graph"
            ) from error
        return result, graph.replay

    def forget(self) -> None:
        """A pool is given up with the last of its graphs; the next ones get another."""
        self._pool = torch.cuda.graph_pool_handle()
