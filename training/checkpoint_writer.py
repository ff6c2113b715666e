"""Checkpoints written in a thread, from a copy of the trainer's state, while training goes on."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from ..sae.common.memory import available_memory
from .checkpoint import trainer_state, write_checkpoint
from .trainer import Trainer


class CheckpointWriter:
    """Writes one checkpoint at a time.

    `save` copies the state to main memory, from a GPU to pinned memory and queued behind the last
    step, so that neither the host nor a later step waits for the disk. The copy takes as much main
    memory as the checkpoint; where that is more than half of what is free, the state itself is
    written, and `save` waits for it. A pinned copy is kept until `close`, as pinning takes long;
    torch rounds the memory of each pinned tensor up to a power of two. A process that is killed in
    the middle leaves the checkpoints before it whole.

    Several runs may share a writer; a save then waits for that of another run, too.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._pinned: dict[str, Tensor] = {}

    def save(
        self,
        checkpoints: Path,
        trainer: Trainer,
        *,
        seconds: float,
        keep: int,
        moments: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Begin to write `step-N` into the folder of checkpoints, as `write_checkpoint` does, once
        the one before is written.

        The trainer may go on at once. Raises what `wait` raises.

        Args:
            checkpoints, trainer, seconds, keep: as for `write_checkpoint`.
            moments: whole ones to save in place of the optimizer's, of which it has but some rows,
                by the names that `Adam.state` gives; in main memory, and changed no more.
        """
        self.wait()
        whole = {f"adam.{name}": moment for name, moment in (moments or {}).items()}
        state, step = trainer_state(trainer), trainer.steps_done
        state = {name: tensor for name, tensor in state.items() if name not in whole}
        copies, copied = self._copy(state)
        written = (state if copies is None else copies) | whole

        def write() -> None:
            if copied is not None:
                copied.synchronize()
            write_checkpoint(checkpoints, written, step=step, seconds=seconds, keep=keep)

        self._writing = self._pool.submit(write)
        if copies is None:
            self.wait()

    def wait(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            OSError, SafetensorError: it could not be, because the disk is full for instance; the
                ones before it are whole. It is raised once.
        """
        if self._writing is not None:
            # Ctrl-C may end the waiting, but not the writing.
            exception = self._writing.exception()
            self._writing = None
            if exception is not None:
                raise exception

    def raise_error(self) -> None:
        """As `wait`, but only where the last checkpoint is written or could not be."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def close(self) -> None:
        """Wait for the last checkpoint and end the thread. An error that nobody has waited for is
        dropped: another exception led here, and is the one to tell."""
        self._pool.shutdown()
        self._writing = None
        self._pinned = {}

    def _copy(
        self, state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor] | None, torch.cuda.Event | None]:
        """Copies of the tensors in main memory, None if there is no room, and on a GPU an event at
        which they are made."""
        reused = {
            name: last for name, last in self._pinned.items() if _suits(last, state.get(name))
        }
        self._pinned = {}
        missing = [tensor for name, tensor in state.items() if name not in reused]
        if 2 * sum(tensor.nbytes for tensor in missing) > available_memory():
            return None, None
        copies = {
            name: reused[name]
            if name in reused
            else torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            for name, tensor in state.items()
        }
        for name, tensor in state.items():
            copies[name].copy_(tensor.detach(), non_blocking=True)
        self._pinned = {name: copies[name] for name, tensor in state.items() if tensor.is_cuda}
        on_gpu = next((tensor for tensor in state.values() if tensor.is_cuda), None)
        if on_gpu is None:
            return copies, None
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(on_gpu.device))
        return copies, copied


def _suits(copy: Tensor, tensor: Tensor | None) -> bool:
    return tensor is not None and (copy.shape, copy.dtype) == (tensor.shape, tensor.dtype)
