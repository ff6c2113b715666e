"""One update of an autoencoder from a batch: loss, gradients, Adam, dead latents."""

import dataclasses
from typing import ClassVar, Literal, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..kernels.capacity import SlotCapacity
from ..kernels.dispatch import uses_triton
from ..kernels.firing import FiringCounts, count_firings_, fired_latents
from ..sae.autoencoder import SparseAutoencoder
from ..sae.common.errors import InputError
from .averages import WeightAverages
from .chosen_precision import products_in, with_precision
from .code_widths import CodeWidths
from .distributed.collectives import Distributed
from .initialize import initialize_from_rows, is_initialized
from .non_finite import any_rank_has_bad, non_finite_loss
from .objective import Losses, objective
from .open_settings import resolved_defaults
from .optimizer import Adam
from .precision import RoundedWeights
from .runtime.transfers import PendingHostCopy
from .step_metrics import StepMetrics, measure_step
from .step_state import ForwardHalf, KnownDead, PendingCheck, in_place_versions
from .trainer_config import TrainerConfig
from .undone_steps import unchanged_unless
from .whitening import Whitening

# Gradients of a mean over B * D elements are small; this epsilon (arXiv 2406.04093) stays below.
_ADAM_EPSILON = 6.25e-10


class Trainer:
    """Adam with unit-norm decoder rows over batches of raw activations.

    On a GPU `step` only queues work. The host needs two numbers of it: whether the loss is finite,
    and how many latents are dead. They are copied to the host between the forward and the backward
    pass and read where the next step begins, so that the GPU always has work; `synchronize` waits
    for them. Where an activation lets the data say how wide its codes are, a step takes the width
    for granted (`code_widths`); one whose rows do not fit is not done, and made again, counting,
    before the next: until then a batch must not be changed in place.

    On a CPU a step is a fifth faster where the process's malloc keeps what is freed, which the
    process itself must ask for: `keep_freed_memory`.

    Attributes:
        sae: the autoencoder, changed in place; with `whitening` it is one of whitened rows, which
            `trained` gives folded.
        whitening: what whitens rows for it; None without.
        config: how it is trained, nothing left open.
        steps_done: updates so far; the learning rate follows it.
        optimizer: Adam and its moments.
        averages: moving averages of the weights; None without `ema_decay`.
        tokens_since_fired: [F] int64 rows since each latent last fired.
        code_widths: what codes take for granted on a GPU; None where nothing is.
        dist: the processes that share every batch; each has a trainer like this one.
    """

    records_graphs: ClassVar[bool] = False
    """Whether it is one that `cuda_graph` asks for."""

    def __init__(
        self,
        sae: SparseAutoencoder,
        config: TrainerConfig | None = None,
        dist: Distributed | None = None,
    ) -> None:
        """Raises InputError if the configuration does not suit the autoencoder or its device.

        The precision `auto` becomes definite in `self.config`, see `chosen_precision`, and so do
        batch size, learning rate and dead window that are left open, see `defaults`.
        """
        self.sae = sae
        self.dist = dist or Distributed()
        config = with_precision(config or TrainerConfig(), sae.W_dec.device, sae.W_dec.dtype)
        all_latents = sae.config.n_latents * self.dist.n_shards
        defaults = resolved_defaults(config, all_latents, sae.config.activation)
        self.config = config = dataclasses.replace(config, **dataclasses.asdict(defaults))
        config.validate_for(sae.config)
        if config.cuda_graph and not self.records_graphs:
            raise InputError(
                "cuda_graph is on, but a Trainer records none; make a GraphTrainer",
                field="cuda_graph",
            )
        d_model, n_latents = sae.config.d_model, sae.config.n_latents
        self.k_aux = config.k_aux or max(1, d_model // 2)
        self.dead_after_tokens = defaults.dead_after_tokens
        self.lr = defaults.lr
        self.steps_done = 0
        self.averages = None if config.ema_decay is None else WeightAverages(sae, config.ema_decay)
        self.whitening = (
            Whitening(sae.b_dec.detach(), config.whitening, config.whitening_shrinkage)
            if config.whitening
            else None
        )
        self.tokens_since_fired = torch.zeros(n_latents, dtype=torch.int64, device=sae.W_dec.device)
        n_parts = sae.activation.n_code_parts if uses_triton(sae.W_dec) else 0
        self.code_widths = CodeWidths(n_parts, sae.W_dec) if n_parts else None
        self._pending: PendingCheck | None = None
        self._known_dead: KnownDead | None = None
        self._may_lack_initialization = not is_initialized(sae) or self.whitening is not None
        buffers = {name for name, _ in sae.named_buffers()}
        self._activation_buffers = [name for name in sae.activation.state() if name in buffers]
        self._rounded = RoundedWeights() if uses_triton(sae.W_dec) else None
        self.optimizer = Adam(
            sae,
            unit_rows={"W_dec"},
            betas=(config.beta1, config.beta2),
            epsilon=_ADAM_EPSILON,
            clip_norm=config.clip_norm or None,
            norm=self.dist.gradient_norm,
            rows=self.dist.moment_rows,
            gather=self.dist.all_gather_rows,
            rounded=self._rounded,
        )

    def initialize(
        self, x: Float[Tensor, "N D"], target: Float[Tensor, "N D"] | None = None
    ) -> None:
        """Estimate scales, centers, whitening and the activation's state from a sample, before the
        first step.

        A few thousand rows are enough. Where this is left out, the first step does it from its
        batch, unless the autoencoder has been initialized or trained before.

        Args:
            x: [N, D] raw activations that are read.
            target: [N, D] what a transcoder predicts from them; of an autoencoder None.

        Raises:
            InputError: the rows are not finite, or all alike.
        """
        initialize_from_rows(self.sae, x, target)
        if self.whitening is not None:
            self.whitening.estimate(self.sae.scaled(x.to(self.sae.W_dec.device)))
            x = self.whitening.raw_whitened(self.sae, x)
        settings = self.config.activation_settings(self.sae.config)
        self.sae.activation.initialize(self.sae, x, settings)

    @overload
    def step(
        self,
        x: Float[Tensor, "B D"],
        target: Float[Tensor, "B D"] | None = None,
        *,
        measured: Literal[True] = True,
    ) -> StepMetrics: ...

    @overload
    def step(
        self,
        x: Float[Tensor, "B D"],
        target: Float[Tensor, "B D"] | None = None,
        *,
        measured: bool,
    ) -> StepMetrics | None: ...

    def step(
        self,
        x: Float[Tensor, "B D"],
        target: Float[Tensor, "B D"] | None = None,
        *,
        measured: bool = True,
    ) -> StepMetrics | None:
        """One update from a batch of raw activations, or from this process's part of it.

        The first one of a new autoencoder initializes it from the batch; see `initialize`.

        Args:
            x: [B, D] the rows that are read.
            target: [B, D] the raw activations that a transcoder predicts from them; of an
                autoencoder None.
            measured: whether to measure what the step saw, which changes nothing else; on a GPU it
                takes some percent of the step. Alike on all ranks.

        Returns:
            The measures, None if not `measured`.

        Raises:
            ValueError: x is not [B, D] of the autoencoder's width, or has no rows; the target is
                not like x, or is missing or not for an autoencoder.
            NonFiniteLoss: the loss is NaN or infinite, of this step or, on a GPU, of the one
                before, which then is not done; weights and moments are as before it.
        """
        with products_in(self.config.precision, self.sae.W_dec.device):
            return self._step(x, target, measured=measured)

    def _step(
        self,
        x: Float[Tensor, "B D"],
        target: Float[Tensor, "B D"] | None,
        *,
        measured: bool,
        again: bool = False,
    ) -> StepMetrics | None:
        self._require_batch(x, target)
        # Wait for the last step's loss before anything of this step: if it was not finite, that
        # step is not done, and nothing may be queued on top of it.
        self.synchronize()
        if self._may_lack_initialization and not self.steps_done:
            self._initialize_from_first_batch(x, target)
        return self._make_step(x, target, measured=measured, again=again)

    def _make_step(
        self,
        x: Float[Tensor, "B D"],
        target: Float[Tensor, "B D"] | None,
        *,
        measured: bool,
        again: bool,
    ) -> StepMetrics | None:
        """The step, once the one before it is known to be done."""
        dead_N = self._dead_before_step()
        capacity = None
        if self.code_widths is not None:
            # Figures are waited for anyhow, and must not be those of a step that is not done.
            capacity = self.code_widths.capacity(self.steps_done, asks=measured or again)
        forward = self._forward(x, target, dead_N, capacity=capacity)
        self._begin_check(x, target, forward.counted, capacity)
        if not uses_triton(self.sae.W_dec):
            # On a CPU the numbers are there: raise before gradients are made.
            self._finish_check(failed_step=self.steps_done)
        norm = self._backward(forward, dead_N)
        # Neither the averages nor what an activation changes, such as a learned threshold, move
        # in a step that is not done: on a CPU it has raised above. On a GPU the device drops the
        # changes, and the next step raises.
        self._end_step(forward.counted)
        buffers = [self.sae.get_buffer(name) for name in self._activation_buffers]
        with unchanged_unless(self._applies(forward.counted), buffers):
            codes = forward.losses.codes
            settings = self.config.activation_settings(self.sae.config)
            self.sae.activation.after_step(self.sae, codes, settings, self.dist)
        return self._metrics(forward, len(dead_N), norm) if measured else None

    def _forward(
        self,
        x: Float[Tensor, "B D"],
        target: Float[Tensor, "B D"] | None,
        dead_N: Int[Tensor, "N"],
        n_dead: Int[Tensor, ""] | None = None,
        capacity: SlotCapacity | None = None,
    ) -> ForwardHalf:
        """The loss of a batch, and the firings of its rows counted; `n_dead` as of `loss`.

        Rows are counted before the backward pass: the next step's number of dead latents is then on
        its way to the host while the GPU is busy with gradients and the update. Where the loss is
        not finite no rows count.
        """
        scaled_BD = self.sae.scaled(x)
        target_BD = None if target is None else self.sae.scaled_target(target)
        with self.sae.activation.taking_for_granted(capacity):
            losses = self.loss(scaled_BD, dead_N, target_BD, n_dead)
        n_latents = len(self.tokens_since_fired)
        fired_F = self.dist.all_reduce_any(fired_latents(losses.codes, n_latents))
        counted = count_firings_(
            self.tokens_since_fired,
            fired_F,
            losses.total.detach(),
            n_rows=len(x) * self.dist.data_size,
            dead_after=self.dead_after_tokens,
        )
        compared_BD = self._compared(scaled_BD) if target_BD is None else target_BD
        return ForwardHalf(compared_BD, losses, fired_F, counted)

    def _begin_check(
        self,
        x: Float[Tensor, "B D"],
        target: Float[Tensor, "B D"] | None,
        counted: FiringCounts,
        capacity: SlotCapacity | None = None,
    ) -> None:
        """Send to the host what it must know before the next step."""
        numbers = PendingHostCopy(counted.numbers)
        batch = [x] if target is None else [x, target]
        versions = in_place_versions(batch), self._counts_version()
        self._pending = PendingCheck(
            batch, versions[0], numbers, counted.dead, versions[1], capacity
        )

    def _backward(
        self,
        forward: ForwardHalf,
        dead_N: Int[Tensor, "N"],
        in_memory: Float[Tensor, "3"] | None = None,
    ) -> Float[Tensor, ""]:
        """Gradients and Adam's step, whose numbers may lie in memory, see `Adam.step`; the norm of
        the gradients."""
        touched_F = forward.fired
        if not touched_F.is_cuda:  # where nobody asks; dead latents get gradients from AuxK
            touched_F = touched_F.index_fill(0, dead_N, True)
        self.dist.backward(forward.losses.total, self.sae, touched_F)
        # The host of a GPU does not know yet whether the loss is finite: `applies` leaves weights
        # and moments as they are on the device if it is not.
        return self.optimizer.step(
            self.steps_done + 1,
            self.learning_rate(self.steps_done),
            applies=forward.counted.finite,
            in_memory=in_memory,
        )

    def _end_step(self, counted: FiringCounts) -> None:
        self.steps_done += 1
        if self.averages is not None:  # of the weights after the step
            self.averages.update(self.steps_done, self._applies(counted))

    def _applies(self, counted: FiringCounts) -> Bool[Tensor, ""] | None:
        """Whether the step is done, where the host learns it late; None where it has raised."""
        return counted.finite if uses_triton(self.sae.W_dec) else None

    def synchronize(self) -> None:
        """Wait until it is known whether the last step's loss is finite.

        Raises:
            NonFiniteLoss: it is NaN or infinite; the step is not done, and not in `steps_done`.
            RuntimeError: the step must be made again, but its batch was changed in place, on some
                rank; it is not done either.
        """
        self._finish_check(failed_step=self.steps_done - 1)

    def loss(
        self,
        scaled_BD: Float[Tensor, "B D"],
        dead_N: Int[Tensor, "N"] | None = None,
        target_BD: Float[Tensor, "B D"] | None = None,
        n_dead: Int[Tensor, ""] | None = None,
    ) -> Losses:
        """The loss of rows, and of a transcoder's target, in scaled units, without side effects; no
        dead latents by default. `n_dead` says on the device how many of `dead_N`, from the first
        on, are dead; None: all.

        Raises ValueError if the target does not suit, as `step` does.
        """
        self._require_batch(scaled_BD, target_BD)
        rows_BD, units = scaled_BD, None
        if self.whitening is not None:
            rows_BD = self.whitening.whitened(scaled_BD)
            units = self.whitening.inverse if self.config.whitening_loss == "original" else None
        with products_in(self.config.precision, scaled_BD.device):
            return objective(
                self.sae,
                self.config,
                rows_BD,
                dead_N,
                target_BD=target_BD,
                k_aux=self.k_aux,
                n_dead=n_dead,
                k=self.annealed_k(self.steps_done),
                dist=self.dist,
                rounded=self._rounded,
                step=self.steps_done,
                units=units,
            )

    def _compared(self, scaled_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """An autoencoder's rows in the units in which the loss compares them."""
        if self.whitening is None or self.config.whitening_loss == "original":
            return scaled_BD
        return self.whitening.whitened(scaled_BD)

    def trained(self) -> SparseAutoencoder:
        """The autoencoder to evaluate and save: with `ema_decay` a copy with averaged weights, with
        `whitening` one that reads plain rows."""
        sae = self.sae if self.averages is None else self.averages.autoencoder()
        return sae if self.whitening is None else self.whitening.folded(sae)

    def learning_rate(self, step: int) -> float:
        """The rate of the step (from 0): rising, flat, then falling linearly to 0 at the end."""
        n_steps = self.config.n_steps
        warmup = self.config.warmup_fraction * n_steps
        decay = self.config.decay_fraction * n_steps
        rising = (step + 1) / warmup if step + 1 < warmup else 1.0
        left = max(n_steps - step, 1)  # a caller may go on beyond n_steps
        falling = left / decay if left < decay else 1.0
        return self.lr * min(rising, falling)

    def annealed_k(self, step: int) -> int | None:
        """Latents of a row at the step (from 0), falling linearly; None: k throughout."""
        start, end = self.config.k_start, self.sae.config.latents_of_row
        if start is None or end is None:
            return None
        n_steps = max(1.0, self.config.k_anneal_fraction * self.config.n_steps)
        return end + round((start - end) * max(0.0, 1 - step / n_steps))

    def dead_latents(self) -> Int[Tensor, "N"]:
        """Indices of the latents that have not fired for `dead_after_tokens` rows."""
        is_dead_F = self.tokens_since_fired >= self.dead_after_tokens
        return is_dead_F.nonzero()[:, 0]  # waits for a GPU, to know how many there are

    def _initialize_from_first_batch(
        self, x: Float[Tensor, "B D"], target: Float[Tensor, "B D"] | None
    ) -> None:
        """Call `initialize` if nobody has. A batch whose rows are all alike has no scale; the next
        step tries again.

        Raises NonFiniteLoss if the batch is not finite, before anything is changed.
        """
        lacks_whitening = self.whitening is not None and not self.whitening.is_estimated
        if lacks_whitening or not is_initialized(self.sae):
            sides = [x] if target is None else [x, target]
            if any_rank_has_bad(sides, self.dist):
                raise non_finite_loss(self.steps_done, sides, self.dist)
            alike = torch.stack([(rows == rows[0]).all() for rows in sides])
            if self.dist.all_reduce_any(alike).any():
                return
            if self.whitening is not None and is_initialized(self.sae):
                self.whitening.estimate(self.sae.scaled(x))
            else:
                self.initialize(x, target)
            # Each rank has estimated from its own rows.
            self.dist.broadcast(self.sae.state_dict().values())
            if self.whitening is not None:
                self.dist.broadcast((self.whitening.matrix, self.whitening.inverse))
        self._may_lack_initialization = False

    def _finish_check(self, *, failed_step: int) -> None:
        """Wait for the pending check, if there is one, and keep the number of dead latents.

        If the loss is not finite, raises NonFiniteLoss with `steps_done` set to `failed_step`, the
        number of the step that the check is of, from 0.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        finite, n_dead = pending.numbers.wait()
        if not finite:
            self.steps_done = failed_step
            presumed = pending.capacity is not None and not pending.capacity.asks
            if presumed and not any_rank_has_bad(pending.batch, self.dist):
                self._step_again(pending)
                return
            raise non_finite_loss(self.steps_done, pending.batch, self.dist)
        if self.code_widths is not None and pending.capacity is not None:
            several = self.dist.world_size > 1
            all_reduce_min = self.dist.all_reduce_min if several else None
            self.code_widths.learn(pending.capacity, failed_step, all_reduce_min)
        if pending.dead is not None:
            self._known_dead = KnownDead(pending.dead[:n_dead], pending.counts_version)

    def _step_again(self, pending: PendingCheck) -> None:
        """Make a step that is not done, maybe because a row's codes did not fit, now counting what
        they need; every rank does."""
        x, *target = pending.batch
        changed = pending.batch_versions != in_place_versions(pending.batch)
        if self.dist.all_reduce_any(torch.tensor([changed], device=x.device)).any():
            raise RuntimeError(
                f"step {self.steps_done} must be made again, but its batch, or a tensor of which "
                "it is a part, was changed in place meanwhile; give each step a tensor of its own, "
                "or call synchronize() before"
            )
        with products_in(self.config.precision, self.sae.W_dec.device):
            self._step(x, target[0] if target else None, measured=False, again=True)
        self._finish_check(failed_step=self.steps_done - 1)

    def _dead_before_step(self) -> Int[Tensor, "N"]:
        """As `dead_latents`, without waiting for a GPU if the host knows their number from the last
        step, and nobody has changed `tokens_since_fired` since."""
        known = self._take_known_dead()
        return self.dead_latents() if known is None else known

    def _take_known_dead(self) -> Int[Tensor, "N"] | None:
        """The dead latents if the host knows their number; it is forgotten."""
        known, self._known_dead = self._known_dead, None
        if known is None or known.counts_version != self._counts_version():
            return None
        return known.latents

    def _counts_version(self) -> int:
        """How often `tokens_since_fired` was changed in place; on a GPU by others than `step`, for
        PyTorch does not see its kernel."""
        return self.tokens_since_fired._version  # pyright: ignore[reportPrivateUsage] - documented

    def _metrics(self, forward: ForwardHalf, n_dead: int, norm: Float[Tensor, ""]) -> StepMetrics:
        n_latents = self.sae.config.n_latents
        return measure_step(forward.losses, forward.target, n_dead / n_latents, norm, self.dist)

    def _require_batch(self, x: Tensor, target: Tensor | None) -> None:
        d_model = self.sae.config.d_model
        if x.ndim != 2 or x.shape[1] != d_model or len(x) == 0:
            raise ValueError(f"x has shape {list(x.shape)}, but must be [B, {d_model}] with rows")
        self.sae.require_target(target)
        if target is not None and target.shape != x.shape:
            raise ValueError(
                f"target has shape {list(target.shape)}, but must have that of x, {list(x.shape)}"
            )
