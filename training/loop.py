"""The training of one autoencoder: step, log, evaluate, save, stop."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..sae.autoencoder import SparseAutoencoder
from ..sae.common.errors import InputError
from ..sae.metrics import measure_rows
from .checkpoint import trainer_state
from .checkpoint_writer import CheckpointWriter
from .chosen_precision import products_in
from .config import TrainConfig
from .data.activation_source import ActivationSource
from .intervals import Intervals
from .non_finite import NonFiniteLoss
from .run import RunFolder
from .runtime.stopping import AgreedStop, Interrupted
from .step_metrics import StepMetrics
from .trainer import Trainer
from .trainer_config import Precision

ProgressCallback = Callable[[int, int, dict[str, float]], None]
"""Told after logged steps: steps done, steps in all, the newest figures."""

Batch = Mapping[str, Float[Tensor, "B D"]]
"""Activations of the same tokens at each site, [B, D] on the training device."""


@dataclass(eq=False)
class TrainingRun:
    """One autoencoder in training: what it is trained on, and where it is written.

    Attributes:
        config: what to train.
        site: where in the language model the activations that it reads come from.
        folder: its run folder; rank 0 alone writes there.
        data: where batches and held-out rows come from.
        trainer: makes the updates; with `shards` > 1 of this rank's latents alone.
        precision: float32, tf32 or bfloat16: what its products multiply.
        settings: what config.yaml holds.
        full_trainer: with `shards` > 1, on rank 0, a trainer of all latents, which is evaluated and
            saved in place of `trainer`, after `gather_shards`; else None.
        moments: on rank 0 those that no rank has whole, as of the last `gather_moments`, or as they
            were restored, until `spread` hands them out.
        seconds: spent on updates, those before the run was resumed included.
        writer: writes its checkpoints, and those of other runs that share it.
    """

    config: TrainConfig
    site: str
    folder: RunFolder
    data: ActivationSource
    trainer: Trainer
    precision: Precision
    settings: dict[str, Any]
    full_trainer: Trainer | None = None
    moments: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    seconds: float = 0.0
    writer: CheckpointWriter = field(default_factory=CheckpointWriter)

    @property
    def sites(self) -> tuple[str, ...]:
        """The site that is read and, of a transcoder, the one that it predicts."""
        target_site = self.config.target_site
        return (self.site,) if target_site is None else (self.site, target_site)

    def log(self, metrics: StepMetrics, report: ProgressCallback) -> None:
        """Write the last step's metrics to metrics.jsonl and report them. Reading them waits for
        the device. Raises the error of a checkpoint that could not be written."""
        self.writer.raise_error()
        config, trainer = self.config.trainer, self.trainer
        step = trainer.steps_done
        figures = metrics.figures()
        figures["lr"] = trainer.learning_rate(step - 1)
        if (k := trainer.annealed_k(step - 1)) is not None:
            figures["k"] = k
        figures["tokens"] = step * config.rows_per_step
        self.folder.log({"step": step, **figures})
        report(step, config.n_steps, figures | {"seconds": self.seconds})

    def evaluate(self, report: ProgressCallback) -> None:
        """Write measures on held-out rows to metrics.jsonl and report them."""
        step = self.trainer.steps_done
        held_out = self.measure(self.held_out())
        self.folder.log({"step": step, "held_out": held_out})
        figures = {f"held_out_{name}": float(value) for name, value in held_out.items()}
        report(step, self.config.trainer.n_steps, figures)

    def save(self, *, wait: bool) -> None:
        """Begin to write a checkpoint, or `wait` until it is written. Raises the error of the one
        before it, or of this one, that could not be written."""
        keep = self.config.trainer.keep_checkpoints
        trainer = self.full_trainer or self.trainer
        self.writer.save(
            self.folder.checkpoints,
            trainer,
            seconds=self.seconds,
            keep=keep,
            moments=self.moments,
        )
        self.moments = {}  # as large as the weights twice
        if wait:
            self.writer.wait()

    def gather_shards(self) -> None:
        """Bring `full_trainer` on rank 0 up to date, if latents are sharded; every rank calls this
        before rank 0 evaluates or saves.

        Raises NonFiniteLoss if the last step is not done, see `Trainer.synchronize`.
        """
        # On a GPU the last step may only be queued: no state is taken before its loss is known.
        self.trainer.synchronize()
        if self.config.trainer.shards > 1:
            full = {} if self.full_trainer is None else trainer_state(self.full_trainer)
            self.trainer.dist.gather_shards(trainer_state(self.trainer), full)
        if self.full_trainer is not None:
            self.full_trainer.steps_done = self.trainer.steps_done

    def gather_moments(self) -> None:
        """Bring Adam's moments to rank 0 if each rank has a part; every rank calls this before rank
        0 saves, after `gather_shards`."""
        trainer = self.trainer
        self.moments = trainer.dist.gather_moments(trainer.sae, trainer.optimizer.state())

    def trained(self) -> SparseAutoencoder:
        """On rank 0 the autoencoder to evaluate and save, as of the last `gather_shards`."""
        return (self.full_trainer or self.trainer).trained()

    def held_out(self) -> dict[str, Float[Tensor, "N D"]]:
        """The held-out rows by site."""
        limit = self.config.trainer.eval_rows
        return {site: self.data.held_out(site=site, limit=limit) for site in self.sites}

    def measure(self, held_out: Mapping[str, Float[Tensor, "N D"]]) -> dict[str, float | int]:
        """`ReconstructionMetrics.result` of `trained` on held-out rows by site."""
        sae = self.trained()
        with products_in(self.precision, sae.W_dec.device):
            return measure_rows(sae, *(held_out[site] for site in self.sites)).result()


def fit(
    run: TrainingRun,
    batches: Iterator[Batch],
    *,
    stop: AgreedStop,
    report: ProgressCallback,
) -> Generator[int]:
    """Train one autoencoder from the step at which it stands to the last.

    A generator that yields between steps, so that the autoencoders of a grid can take turns;
    whoever trains only one exhausts it.

    Args:
        run: what is trained; `run.trainer` is changed in place.
        batches: the batches from the step at which the run stands, alike on all ranks.
        stop: whether to save and end, as of when the last of `batches` was read.
        report: told after logged steps and evaluations, on rank 0.

    Yields:
        Steps done.

    Raises:
        NonFiniteLoss: NaN or infinity in the data or the loss; the last checkpoint stays.
        OSError, SafetensorError: a checkpoint could not be written; told when the next step is
            logged or saved.
        Interrupted: `stop` was agreed on; the last step is saved.
    """
    trainer, config, dist = run.trainer, run.config.trainer, run.trainer.dist
    intervals = Intervals(config, dist)
    first = saved = trainer.steps_done
    while trainer.steps_done < config.n_steps:
        try:
            batch = next(batches)
        except Exception as error:
            if _saves_what_is_done(run) and isinstance(error, InputError):
                raise InputError(f"{error}; step {trainer.steps_done} is saved") from error
            raise

        # Stop. A run that is asked before its first step makes it if there is a batch.
        step = trainer.steps_done
        if stop.agreed and (step > first or not batch):
            if saved != step:
                _save_on_main(run)
            dist.run_on_main(run.writer.wait)
            raise Interrupted(
                f"interrupted at step {step} of {config.n_steps}, which is saved; the same command "
                "goes on from there"
            )

        # Step. Seconds count what the host spends on it; on a GPU the update is only queued, and
        # each step waits for the check of the one before.
        step = trainer.steps_done + 1
        is_last = step == config.n_steps
        due = intervals.due(step)
        is_logged = "log" in due or is_last
        started = time.perf_counter()
        metrics = trainer.step(*(batch[site] for site in run.sites), measured=is_logged)
        run.seconds += time.perf_counter() - started

        # Log. A line says that the step is done, so its loss must be known to be finite first.
        if metrics is not None:
            trainer.synchronize()
            dist.run_on_main(run.log, metrics, report)
            intervals.was_done("log")
        if is_last:
            return  # the caller evaluates and saves the trained autoencoder

        # Evaluate. All ranks wait until rank 0 has measured.
        if "evaluate" in due:
            run.gather_shards()
            dist.run_on_main(run.evaluate, report)
            intervals.was_done("evaluate")

        # Save.
        if "save" in due:
            _save_on_main(run)
            intervals.was_done("save")
            saved = step
        yield step


def _save_on_main(run: TrainingRun) -> None:
    """Let rank 0 begin to write a checkpoint of what all ranks have; every rank calls this."""
    dist = run.trainer.dist
    dist.run_on_main(run.writer.wait)  # else rank 0 would hold what is gathered twice
    run.gather_shards()
    run.gather_moments()
    dist.run_on_main(run.save, wait=False)


def _saves_what_is_done(run: TrainingRun) -> bool:
    """Write a checkpoint where the next batch cannot be read, and say whether there is one now.

    One of several ranks writes none, so that an error on one of them ends all at once.
    """
    if run.trainer.dist.world_size > 1 or run.trainer.steps_done == 0:
        return False
    try:
        run.gather_shards()
    except NonFiniteLoss:  # of the last step, which is not done; the error in reading is told
        return False
    run.save(wait=True)
    return True


def read_batches(
    data: ActivationSource, sites: Sequence[str], trainer: Trainer, stop: AgreedStop
) -> Generator[Batch]:
    """This rank's rows of the batches from the trainer's step on, on its device.

    The activations of all sites in a batch are of the same tokens, in the same order. An error in
    reading is raised on all ranks, and with every batch they agree on whether to stop. Where a
    process alone is to stop, the batch is empty.
    """
    config, dist, device = trainer.config, trainer.dist, trainer.sae.W_dec.device
    with ExitStack() as opened:
        by_site: dict[str, Iterator[Float[Tensor, "B D"]]] = {}
        for site in sites:
            rows = data.batches(
                config.rows_per_step,
                site=site,
                seed=config.data_seed,
                start=trainer.steps_done,
                part=dist.local_rows(config.rows_per_step),
                device=device,
            )
            by_site[site] = opened.enter_context(closing(rows))
        for number in count():
            if number and dist.world_size == 1 and stop.request.is_set():
                stop.agreed = True  # no other need be asked, and reading may take seconds
                yield {}
            # A rank that cannot read would leave the others waiting for it in their next step.
            with dist.errors_on_all_ranks(stop.request.is_set) as agreement:
                batch = {site: next(rows) for site, rows in by_site.items()}
            stop.agreed = agreement.asked
            yield batch
