"""The training of one autoencoder: step, log, evaluate, save, stop."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ..sae.autoencoder import SparseAutoencoder
from ..sae.common.errors import InputError
from ..sae.metrics import measure_rows
from .checkpoint import save_checkpoint, trainer_state
from .config import TrainConfig
from .data.activation_source import ActivationSource
from .run import RunFolder
from .runtime.stopping import Interrupted
from .runtime.transfers import prefetch_to_device
from .trainer import NonFiniteLoss, StepMetrics, Trainer

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
        full_trainer: with `shards` > 1, on rank 0, a trainer of all latents, which is evaluated and
            saved in place of `trainer`, after `gather_shards`; else None.
        seconds: spent on updates, those before the run was resumed included.
    """

    config: TrainConfig
    site: str
    folder: RunFolder
    data: ActivationSource
    trainer: Trainer
    full_trainer: Trainer | None = None
    seconds: float = 0.0

    @property
    def sites(self) -> tuple[str, ...]:
        """The site that is read and, of a transcoder, the one that it predicts."""
        target_site = self.config.target_site
        return (self.site,) if target_site is None else (self.site, target_site)

    def log(self, metrics: StepMetrics, report: ProgressCallback) -> None:
        """Write the last step's metrics to metrics.jsonl and report them. Reading them waits for
        the device."""
        config, trainer = self.config.trainer, self.trainer
        step = trainer.steps_done
        figures = metrics.figures()
        figures["lr"] = trainer.learning_rate(step - 1)
        if (k := trainer.annealed_k(step - 1)) is not None:
            figures["k"] = k
        figures["tokens"] = step * config.batch_size
        self.folder.log({"step": step, **figures})
        report(step, config.n_steps, figures | {"seconds": self.seconds})

    def evaluate(self, report: ProgressCallback) -> None:
        """Write measures on held-out rows to metrics.jsonl and report them."""
        step = self.trainer.steps_done
        held_out = self.measure(self.held_out())
        self.folder.log({"step": step, "held_out": held_out})
        figures = {f"held_out_{name}": float(value) for name, value in held_out.items()}
        report(step, self.config.trainer.n_steps, figures)

    def save(self) -> None:
        """Write a checkpoint."""
        keep = self.config.trainer.keep_checkpoints
        trainer = self.full_trainer or self.trainer
        save_checkpoint(self.folder.checkpoints, trainer, seconds=self.seconds, keep=keep)

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

    def trained(self) -> SparseAutoencoder:
        """On rank 0 the autoencoder to evaluate and save, as of the last `gather_shards`."""
        return (self.full_trainer or self.trainer).trained()

    def held_out(self) -> dict[str, Float[Tensor, "N D"]]:
        """The held-out rows by site."""
        limit = self.config.trainer.eval_rows
        return {site: self.data.held_out(site=site, limit=limit) for site in self.sites}

    def measure(self, held_out: Mapping[str, Float[Tensor, "N D"]]) -> dict[str, float | int]:
        """`ReconstructionMetrics.result` of `trained` on held-out rows by site."""
        return measure_rows(self.trained(), *(held_out[site] for site in self.sites)).result()


def fit(
    run: TrainingRun,
    batches: Iterator[Batch],
    *,
    must_stop: Callable[[int], bool],
    report: ProgressCallback,
) -> Generator[int]:
    """Train one autoencoder from the step at which it stands to the last.

    A generator that yields between steps, so that the autoencoders of a grid can take turns;
    whoever trains only one exhausts it.

    Args:
        run: what is trained; `run.trainer` is changed in place.
        batches: the batches from the step at which the run stands, alike on all ranks.
        must_stop: whether to save and end after so many steps; alike on all ranks.
        report: told after logged steps and evaluations, on rank 0.

    Yields:
        Steps done.

    Raises:
        NonFiniteLoss: NaN or infinity in the data or the loss; the last checkpoint stays.
        Interrupted: `must_stop` said so; the step is saved.
    """
    trainer, config, dist = run.trainer, run.config.trainer, run.trainer.dist
    while trainer.steps_done < config.n_steps:
        try:
            batch = next(batches)
        except Exception as error:
            if _saves_what_is_done(run) and isinstance(error, InputError):
                raise InputError(f"{error}; step {trainer.steps_done} is saved") from error
            raise

        # Step. Seconds count what the host spends on it; on a GPU the update is only queued, and
        # each step waits for the check of the one before.
        started = time.perf_counter()
        step = trainer.steps_done + 1
        is_last = step == config.n_steps
        is_logged = step % config.log_every == 0 or is_last
        metrics = trainer.step(*(batch[site] for site in run.sites), measured=is_logged)
        run.seconds += time.perf_counter() - started

        # Log. A line says that the step is done, so its loss must be known to be finite first.
        if metrics is not None:
            trainer.synchronize()
            dist.run_on_main(run.log, metrics, report)
        if is_last:
            return  # the caller evaluates and saves the trained autoencoder

        # Evaluate. All ranks wait until rank 0 has measured.
        if step % config.eval_every == 0:
            run.gather_shards()
            dist.run_on_main(run.evaluate, report)

        # Save. Whether to stop is asked before, since that makes a checkpoint; and in every step,
        # since what one rank was asked all must learn, in a collective that all call equally often.
        stops = must_stop(step)
        if stops or step % config.checkpoint_every == 0:
            run.gather_shards()
            dist.run_on_main(run.save)

        # Stop.
        if stops:
            raise Interrupted(
                f"interrupted at step {step} of {config.n_steps}, which is saved; the same command "
                "goes on from there"
            )
        yield step


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
    run.save()
    return True


def read_batches(
    data: ActivationSource, sites: Sequence[str], trainer: Trainer
) -> Generator[Batch]:
    """This rank's rows of the batches from the trainer's step on, on its device.

    The activations of all sites in a batch are of the same tokens, in the same order. An error in
    reading is raised on all ranks.
    """
    config, dist, device = trainer.config, trainer.dist, trainer.sae.W_dec.device
    with ExitStack() as opened:
        by_site: dict[str, Iterator[Float[Tensor, "B D"]]] = {}
        for site in sites:
            rows = data.batches(
                config.batch_size,
                site=site,
                seed=config.data_seed,
                start=trainer.steps_done,
                part=dist.local_rows(config.batch_size),
            )
            by_site[site] = opened.enter_context(closing(prefetch_to_device(rows, device)))
        while True:
            # A rank that cannot read would leave the others waiting for it in their next step.
            with dist.errors_on_all_ranks():
                batch = {site: next(rows) for site, rows in by_site.items()}
            yield batch
