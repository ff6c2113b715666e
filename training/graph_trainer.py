"""A trainer whose steps are replayed as CUDA graphs."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..kernels.firing import FiringCounts
from ..kernels.step_numbers import NumbersInMemory
from ..sae.autoencoder import SparseAutoencoder
from .cuda_graph import (
    CudaRecorder,
    Recorder,
    StepKind,
    padded_dead,
    require_graphs,
    way_of_step,
)
from .distributed.collectives import Distributed
from .step_metrics import StepMetrics
from .step_state import ForwardHalf
from .trainer import Trainer
from .trainer_config import TrainerConfig


class RecordedStep(NamedTuple):
    """Both halves of a step. The copy of what the host must know goes between them."""

    forward: Callable[[], None]
    counted: FiringCounts
    backward: Callable[[], None]


class GraphTrainer(Trainer):
    """A trainer with fewer calls of the host in a step: two CUDA graphs and three copies.

    A step is that of `Trainer`, except that the list of dead latents is padded, see `padded_dead`:
    with dead latents the last bits of AuxK's products can be others. Its own steps are the same
    whether they are replayed or not, so that a run that is resumed goes on bit for bit. Steps that
    are measured, as they are unless `step` is told `measured=False`, those of batches of another
    shape, those with a falling k, and those after somebody changed the weights are made without a
    graph.

    Recording takes memory beside what other steps take: as much as the largest recorded step.

    Attributes:
        recorded: the kinds of steps that are replayed, and their graphs.
    """

    records_graphs: ClassVar[bool] = True

    def __init__(
        self,
        sae: SparseAutoencoder,
        config: TrainerConfig,
        dist: Distributed | None = None,
        *,
        recorder: Recorder | None = None,
    ) -> None:
        """Raises InputError as `Trainer`, or where steps cannot be recorded.

        Args:
            recorder: in place of CUDA's.
        """
        config = replace(config, cuda_graph=True)  # and refuse what cannot be recorded
        device = sae.W_dec.device
        if recorder is None:
            require_graphs(device, 1 if dist is None else dist.world_size)
            recorder = CudaRecorder(device)
        super().__init__(sae, config, dist)
        self._recorder = recorder
        self.recorded: dict[StepKind, RecordedStep] = {}
        self._n_warm_ups: Counter[StepKind] = Counter()
        self._addresses: list[int] = []
        # What recorded kernels read and the host or the step before has written.
        self._batch: list[Tensor] = []
        self._numbers = NumbersInMemory(device)
        self._dead = torch.arange(sae.config.n_latents, device=device)
        self._n_dead = self._dead.new_zeros(())

    def forget_graphs(self) -> None:
        """Record every kind of step anew, once it has warmed up."""
        self._n_warm_ups.clear()
        if self.recorded:
            self.recorded.clear()
            self._recorder.forget()

    def _make_step(
        self,
        x: Float[Tensor, "B D"],
        target: Float[Tensor, "B D"] | None,
        *,
        measured: bool,
        again: bool,
    ) -> StepMetrics | None:
        assert not again  # no width of a step that can be recorded depends on the data
        n_dead = self._list_dead()
        k = self.annealed_k(self.steps_done)
        places = padded_dead(n_dead, len(self._dead)) if self.config.auxk_coefficient else 0
        kind = StepKind(places, k)
        self._numbers.send(
            self.optimizer.numbers(self.steps_done + 1, self.learning_rate(self.steps_done))
        )
        self._forget_graphs_of_other_memory()
        same_batch = self._take_batch([x] if target is None else [x, target])
        way = way_of_step(
            measured=measured,
            same_batch=same_batch,
            k_falls=k is not None and k != self.sae.config.latents_of_row,
            copies_current=self._copies_are_current(),
            n_warm_ups=self._n_warm_ups[kind],
            is_recorded=kind in self.recorded,
        )
        if way in ("record", "replay"):
            self._replay(kind, x, target)
            return None
        if way == "warm up":
            self._n_warm_ups[kind] += 1
            with self._recorder.warming_up():
                self._eager_step(kind, x, target, same_batch)
            return None
        forward, norm = self._eager_step(kind, x, target, same_batch)
        return self._metrics(forward, n_dead, norm) if measured else None

    def _eager_step(
        self, kind: StepKind, x: Tensor, target: Tensor | None, same_batch: bool
    ) -> tuple[ForwardHalf, Tensor]:
        sides = self._batch if same_batch else [x] if target is None else [x, target]
        forward = self._forward_of(kind, sides)
        self._begin_check(x, target, forward.counted)
        norm = self._backward_of(kind, forward)
        self._end_step(forward.counted)
        return forward, norm

    def _replay(self, kind: StepKind, x: Tensor, target: Tensor | None) -> None:
        if kind not in self.recorded:
            self.recorded[kind] = self._record(kind)
        recorded = self.recorded[kind]
        recorded.forward()
        self._begin_check(x, target, recorded.counted)
        recorded.backward()
        self._end_step(recorded.counted)

    def _record(self, kind: StepKind) -> RecordedStep:
        """What is recorded is not done until it is replayed."""
        forward, run_forward = self._recorder.record(lambda: self._forward_of(kind, self._batch))
        _, run_backward = self._recorder.record(lambda: self._backward_of(kind, forward))
        return RecordedStep(run_forward, forward.counted, run_backward)

    def _forward_of(self, kind: StepKind, batch: list[Tensor]) -> ForwardHalf:
        x, target = batch if len(batch) == 2 else (batch[0], None)
        n_dead = self._n_dead if kind.dead_places else None
        return self._forward(x, target, self._dead[: kind.dead_places], n_dead)

    def _backward_of(self, kind: StepKind, forward: ForwardHalf) -> Float[Tensor, ""]:
        dead_N = self._dead[: kind.dead_places]
        norm = self._backward(forward, dead_N, self._numbers.on_device)
        assert forward.counted.dead is not None  # Triton lists them
        self._dead.copy_(forward.counted.dead)
        self._n_dead.copy_(forward.counted.numbers[1])
        return norm

    def _list_dead(self) -> int:
        """Have the dead latents first in `_dead`, and their number in `_n_dead`; it is returned.
        Waits for the device only where the step before does not tell."""
        known = self._take_known_dead()
        if known is not None:
            return len(known)
        is_dead_F = self.tokens_since_fired >= self.dead_after_tokens
        self._dead.copy_(is_dead_F.to(torch.uint8).argsort(descending=True, stable=True))
        self._n_dead.copy_(is_dead_F.sum())
        return int(self._n_dead)

    def _take_batch(self, sides: list[Tensor]) -> bool:
        """Copy a batch to where recorded kernels read it; whether it is like those of recorded
        steps, or of the last step where none is recorded."""
        if [(r.shape, r.dtype) for r in sides] != [(r.shape, r.dtype) for r in self._batch]:
            if self.recorded:
                return False
            self._batch = [torch.empty_like(rows_BD) for rows_BD in sides]
            self._n_warm_ups.clear()
        for place, rows_BD in zip(self._batch, sides, strict=True):
            place.copy_(rows_BD)
        return True

    def _copies_are_current(self) -> bool:
        if self.config.precision != "bfloat16" or self._rounded is None:
            return True
        return self._rounded.are_written(dict(self.sae.named_parameters()))

    def _forget_graphs_of_other_memory(self) -> None:
        """Drop the graphs if what they read and write has moved since."""
        copies = [] if self._rounded is None else self._rounded.copies()
        state = [*self.sae.parameters(), *self.sae.buffers(), *self.optimizer.state().values()]
        found = [tensor.data_ptr() for tensor in (*state, *copies, self.tokens_since_fired)]
        if found != self._addresses:
            self._addresses = found
            self.forget_graphs()
