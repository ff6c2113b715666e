"""The loop over batches: every autoencoder takes each, with its metrics and checkpoints."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..sae.autoencoder import SparseAutoencoder
from ..sae.common.errors import InputError
from ..sae.metrics import ReconstructionMetrics
from .checkpoint import save_checkpoint, trainer_state
from .config import TrainConfig
from .data.activation_source import ActivationSource
from .distributed.processes import Processes, raised_in_all
from .run import RunFolder
from .runtime.prefetch import on_device
from .runtime.stopping import Interrupted, StopRequest
from .trainer import NonFiniteLoss, StepMetrics, Trainer

_ROWS_AT_ONCE = 4096

GridReport = Callable[[str, int, int, dict[str, float]], None]
"""Told after logged steps: the run's folder, steps done, steps in all, the newest figures."""


@dataclass
class Member:
    """One of the autoencoders that are trained together."""

    config: TrainConfig
    site: str
    run: RunFolder
    trainer: Trainer
    whole: Trainer | None = None
    """Of which `trainer` is a shard, as it was at the last `gather`; only the first process has it.
    None: the trainer is whole."""
    seconds: float = 0.0
    """Spent on updates, those of earlier processes included."""
    metrics: StepMetrics | None = None
    """Of the last update."""
    failure: NonFiniteLoss | None = None

    @property
    def sites(self) -> tuple[str, ...]:
        """Of which it takes rows: what it reads, then what it predicts."""
        target_site = self.config.target_site
        return (self.site,) if target_site is None else (self.site, target_site)

    def take(self, x: Mapping[str, Float[Tensor, "B D"]]) -> None:
        """One update from the sites' batches, or the reason why there are no more."""
        started = time.perf_counter()
        try:
            self.metrics = self.trainer.step(*(x[site] for site in self.sites))
        except NonFiniteLoss as error:
            self.failure = raised_in_all(error)
        self.seconds += time.perf_counter() - started

    def settle(self) -> None:
        """Learn whether the last update was one; see `Trainer.settle`."""
        try:
            self.trainer.settle()
        except NonFiniteLoss as error:
            self.failure = raised_in_all(error)

    def is_recorded(self, step: int) -> bool:
        """Whether a line of metrics is due after so many steps."""
        config = self.config.trainer
        return step % config.log_every == 0 or step == config.n_steps

    def record(self, report: GridReport) -> None:
        """Log the last update's metrics, if there was one."""
        trainer, config = self.trainer, self.config.trainer
        if self.metrics is None or self.failure is not None:
            return
        step = trainer.steps_done
        figures = {name: float(value) for name, value in self.metrics._asdict().items()}
        figures["lr"] = trainer.learning_rate(step - 1)
        if (k := trainer.annealed_k(step - 1)) is not None:
            figures["k"] = k
        figures["tokens"] = step * config.batch_size
        self.run.log({"step": step, **figures})
        report(self.config.out, step, config.n_steps, figures | {"seconds": self.seconds})

    def gather(self) -> None:
        """Bring the whole up to date from the shards; every process calls this."""
        if self.config.trainer.shards > 1:
            whole = {} if self.whole is None else trainer_state(self.whole)
            self.trainer.parallel.gather(trainer_state(self.trainer), whole)
        if self.whole is not None:
            self.whole.steps_done = self.trainer.steps_done

    def evaluate(self, rows: Mapping[str, Float[Tensor, "N D"]], report: GridReport) -> None:
        """Log the measures on the sites' held-out rows."""
        step = self.trainer.steps_done
        held_out = self.measures((self.whole or self.trainer).trained(), rows)
        self.run.log({"step": step, "held_out": held_out})
        shown = {f"held_out_{name}": float(value) for name, value in held_out.items()}
        report(self.config.out, step, self.config.trainer.n_steps, shown)

    def measures(
        self, sae: SparseAutoencoder, rows: Mapping[str, Float[Tensor, "N D"]]
    ) -> dict[str, float | int]:
        """Those of its autoencoder on the sites' held-out rows."""
        return measure_rows(sae, *(rows[site] for site in self.sites)).result()

    def save(self) -> None:
        """Write a checkpoint."""
        keep = self.config.trainer.keep_checkpoints
        trainer = self.whole or self.trainer
        save_checkpoint(self.run.checkpoints, trainer, seconds=self.seconds, keep=keep)


def fit(
    members: Sequence[Member],
    data: ActivationSource,
    team: Processes,
    *,
    report: GridReport,
    stop: StopRequest,
) -> None:
    """Train all from the step where the first of them stands to the last.

    The members share everything that decides batches and schedule; those of another site get its
    activations of the same tokens. One that stands further on waits until the others are there. One
    whose loss is not finite keeps its failure and takes no more. The first process of the team
    measures and writes for all. Where the data cannot be read on, one process alone saves the state
    before that is raised.

    Raises:
        Interrupted: `stop` of one of the processes was set; all whose loss is finite were saved
            after the step in hand. If there are none, their failures tell more.
    """
    if not members:
        return
    config = members[0].config.trainer
    step = min(member.trainer.steps_done for member in members)
    with _batches(members, data, step) as batches, stop.watched():
        while step < config.n_steps and not all(member.failure for member in members):
            with team.together():
                x = _next(batches, members if team.size == 1 else (), step)
            at_step = [member for member in members if member.trainer.steps_done == step]
            for member in at_step:
                member.take(x)
            step += 1
            last = step == config.n_steps
            due = [member for member in at_step if member.is_recorded(step)]
            for member in due:
                member.settle()
            with team.together():
                for member in due if team.is_first else ():
                    member.record(report)
            stopped = team.any(stop.is_set()) and not last
            evaluates = step % config.eval_every == 0 and not last
            saves = not last and (step % config.checkpoint_every == 0 or stopped)
            if evaluates or saves:
                for member in at_step:
                    member.settle()
            here = [member for member in at_step if member.failure is None]
            if here and (evaluates or saves or last):
                for member in here:
                    member.gather()
                with team.together():
                    if evaluates and team.is_first:
                        rows = held_out_rows(here, data)
                        for member in here:
                            member.evaluate(rows, report)
                    if saves and team.is_first:
                        for member in here:
                            member.save()
            if stopped and not all(member.failure for member in members):
                interruption = Interrupted(
                    f"interrupted at step {step} of {config.n_steps}, which is saved; the same "
                    "command goes on from there"
                )
                raise raised_in_all(interruption)


def sites_of(members: Sequence[Member]) -> list[str]:
    """Every site of which one of them takes rows, once."""
    return list(dict.fromkeys(site for member in members for site in member.sites))


def held_out_rows(
    members: Sequence[Member], data: ActivationSource
) -> dict[str, Float[Tensor, "N D"]]:
    """The held-out rows of every site that the members measure on."""
    limit = members[0].config.trainer.eval_rows
    return {site: data.held_out(site=site, limit=limit) for site in sites_of(members)}


_Batches = Mapping[str, Generator[Float[Tensor, "B D"]]]
"""By site."""


@contextmanager
def _batches(members: Sequence[Member], data: ActivationSource, step: int) -> Generator[_Batches]:
    """The batches from the step on, of every site that is trained on: those of a step are of the
    same tokens, in the same order."""
    trainer, config = members[0].trainer, members[0].config.trainer
    part = trainer.parallel.rows(config.batch_size)

    def of_site(site: str) -> Generator[Float[Tensor, "B D"]]:
        return data.batches(
            config.batch_size, site=site, seed=config.data_seed, start=step, part=part
        )

    with ExitStack() as stack:
        yield {
            site: stack.enter_context(closing(on_device(of_site(site), trainer.sae.W_dec.device)))
            for site in sites_of(members)
        }


def _next(batches: _Batches, alone: Sequence[Member], step: int) -> dict[str, Float[Tensor, "B D"]]:
    """The next ones; if they cannot be read, those who train alone are saved at the step first."""
    try:
        return {site: next(of_site) for site, of_site in batches.items()}
    except Exception as error:
        for member in alone:
            member.settle()
        saved = [m for m in alone if m.trainer.steps_done == step > 0 and m.failure is None]
        for member in saved:
            member.save()
        if saved and isinstance(error, InputError):
            raise InputError(f"{error}; step {step} is saved") from error
        raise


def measure_rows(
    sae: SparseAutoencoder,
    rows_ND: Float[Tensor, "N D"],
    target_ND: Float[Tensor, "N D"] | None = None,
    *,
    progress: Callable[[int], None] = lambda rows: None,
) -> ReconstructionMetrics:
    """The measures over raw rows, and what a transcoder predicts from them; `progress` is told the
    rows of each part."""
    measures = ReconstructionMetrics(sae)
    given = [rows_ND] if target_ND is None else [rows_ND, target_ND]
    for parts in zip(*(torch.split(rows, _ROWS_AT_ONCE) for rows in given), strict=True):
        measures.update(*(rows_BD.to(sae.W_dec.device) for rows_BD in parts))
        progress(len(parts[0]))
    return measures
