"""Training runs, one or several: open activations, initialize or resume, fit, save."""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..sae.common.devices import as_current, resolve_device
from .cautions import cautions
from .checkpoint_writer import CheckpointWriter
from .config import TrainConfig
from .cuda_graph import require_graphs
from .data.activation_source import ActivationSource
from .data.cache.rounding import rounding_caution
from .data.settings import to_plain
from .distributed.collectives import Distributed
from .distributed.joining import init_distributed
from .finetuning import (
    as_started,
    read_start,
)
from .forecast.estimate import TrainingEstimate, estimate_run
from .grid_loop import GridReport, fit_together
from .loop import ProgressCallback, TrainingRun, fit, read_batches
from .new_trainers import new_trainer, resume_or_initialize
from .open_settings import as_begun, left_open, with_defaults
from .preconditions import require_shared_data, required_sites, resolved_settings
from .run import RunFolder
from .run_folders import begin_folders, definite_precisions, say_what_was_open, settings_begun_with
from .runtime.stopping import AgreedStop, StopRequest
from .runtime.threads import allowed_cores, use_threads
from .spreading import sharing_moments, spread

Say = Callable[[str], None]


def train(
    config: TrainConfig,
    *,
    report: ProgressCallback = lambda done, total, figures: None,
    say: Say = lambda sentence: None,
    stop: StopRequest | None = None,
) -> dict[str, Any]:
    """Train the autoencoder of the configuration, or go on where a killed run stopped.

    Under torchrun its processes share every batch and end with the same weights; the first of them
    writes and reports.

    A new run takes as many threads as torch has, one that goes on as many as it was begun with, on
    which last bits can depend; torch has its own number again at the end. No signal handler is
    installed: Ctrl-C in Python raises KeyboardInterrupt at once, which leaves whole files and loses
    the steps since the last checkpoint; `stop` loses none.

    Args:
        config: what to train; its `out` folder is made or resumed.
        report: progress, every `log_every` steps.
        say: sentences for a person (resuming, nothing to do).
        stop: whoever sets it ends training after the step in hand, which is saved.

    Returns:
        The run's summary: run, activation, n_latents, steps, tokens, seconds, tokens_per_second,
        the held-out measures of `ReconstructionMetrics.result`, and warnings, see `cautions`.

    Raises:
        InputError: the activations or the run folder do not fit the configuration.
        NonFiniteLoss: NaN or infinity in the data or the loss; the last checkpoint stays.
        Interrupted: `stop` was set; a checkpoint of the last step was saved.
    """
    request = stop or StopRequest()
    with _ready_to_train([config], say) as ready:
        if not ready.runs:
            return ready.complete[config.out]
        (run,) = ready.runs
        agreed = AgreedStop(request)
        batches = read_batches(run.data, run.sites, run.trainer, agreed)
        with request.watched(), closing(batches):
            for _ in fit(run, batches, stop=agreed, report=report):
                pass
        return _finish(run)


def train_grid(
    configs: Sequence[TrainConfig],
    *,
    report: GridReport = lambda name, done, total, figures: None,
    say: Say = lambda sentence: None,
    stop: StopRequest | None = None,
) -> list[dict[str, Any]]:
    """Train several autoencoders on the same batches, which are read once.

    Each ends with the bits that it has when it is trained alone, and each resumes from its own
    checkpoints. One whose loss is not finite stops; the others go on.

    Args:
        configs: as `grid_configs` makes them; each trains in its own `out`.
        report, say, stop: as for `train`.

    Returns:
        The summaries of `train` in the order of `configs`; for one that stopped, `run` and
        `failed`, the reason.

    Raises:
        InputError: as `train`, before any training.
        OSError, SafetensorError: a checkpoint could not be written.
        Interrupted: `stop` was set; checkpoints of all were saved.
    """
    request = stop or StopRequest()
    with _ready_to_train(configs, say) as ready:
        summaries = ready.complete
        if ready.runs:
            with request.watched():
                failures = fit_together(ready.runs, stop=request, report=report)
            # Where all have stopped, nobody else learns that a checkpoint could not be written.
            ready.dist.run_on_main(ready.runs[0].writer.wait)
            for run in ready.runs:
                failure = failures.get(run)
                summaries[run.config.out] = (
                    _finish(run)
                    if failure is None
                    else {"run": run.config.out, "failed": str(failure)}
                )
        return [summaries[config.out] for config in configs]


def estimate_training(
    config: TrainConfig, *, gpu: str | None = None, say: Say = lambda sentence: None
) -> TrainingEstimate:
    """What `train` would take in memory, disk and time, see `TrainingEstimate`; nothing is written.

    Args:
        config: what to train.
        gpu: a GPU to predict for, such as h100, which need not be here.
        say: sentences for a person.

    Raises:
        InputError: as `train`, or the GPU is unknown or does not have the precision.
    """

    def open_data(config: TrainConfig, device: str) -> ActivationSource:
        return _open_activations(config, device=device, say=say)

    start = read_start(config)
    if start is not None:
        config = as_started(config, start.sae)
    return estimate_run(config, open_data, start=start, gpu=gpu, say=say)


@dataclass
class _Ready:
    """Runs that can begin their next step.

    Attributes:
        dist: the processes that train them.
        runs: those that are not complete.
        complete: the summaries of those that are, by their folder.
    """

    dist: Distributed
    runs: list[TrainingRun]
    complete: dict[str, dict[str, Any]]


@contextmanager
def _ready_to_train(configs: Sequence[TrainConfig], say: Say) -> Generator[_Ready]:
    """Everything before the first step: the processes and their threads, the data, the folders, and
    trainers that are initialized or resumed. What is wrong with any of the configurations is told
    before a folder is changed. The folders are held until the context ends."""
    first = configs[0].trainer
    with (
        init_distributed() as dist,
        use_threads(_number_of_threads(configs, dist, say)),
        ExitStack() as held,
    ):
        with dist.errors_on_all_ranks():
            start = read_start(configs[0])  # a grid has one
            if start is not None:
                configs = [as_started(config, start.sae) for config in configs]
        derived = [left_open(config.trainer) for config in configs]
        begun = dist.run_on_main(settings_begun_with, configs)
        configs = as_begun(configs, begun)
        with dist.errors_on_all_ranks():
            data = _open_data(configs, dist, say)
            if start is not None:
                start.require_width(data.d_model)
            configs = [with_defaults(config, data.d_model) for config in configs]
            sites = required_sites(configs, data, dist.world_size)
            device = resolve_device(dist.device(first.device))
            if any(config.trainer.cuda_graph for config in configs):
                require_graphs(device, dist.world_size)
        dist.require_own_device(device)
        held.enter_context(as_current(device))
        # Rank 0 alone writes the folders.
        folders = [RunFolder(config.out) for config in configs]
        for folder in folders:
            held.callback(folder.close)
        precisions = dist.run_on_main(definite_precisions, configs, folders, device, say)
        dist.run_on_main(say_what_was_open, configs, derived, begun, say)
        resolved = [
            resolved_settings(config, data, site, precision, names, start)
            for config, site, precision, names in zip(
                configs, sites, precisions, derived, strict=True
            )
        ]
        complete = dist.run_on_main(
            begin_folders, configs, resolved, folders, dist.world_size, device, say
        )
        # A full dictionary that is going to be sharded may be too large for a GPU.
        initial_device = device if first.shards == 1 else torch.device("cpu")
        # One writer, so that the copy of one run's state at a time is in memory.
        writer = CheckpointWriter()
        held.callback(writer.close)
        sharing = sharing_moments(first, dist, device)
        runs = [
            TrainingRun(
                config,
                site,
                folder,
                data,
                new_trainer(config, precision, data, site, initial_device, sharing, start),
                precision,
                settings,
                writer=writer,
            )
            for config, site, folder, precision, settings in zip(
                configs, sites, folders, precisions, resolved, strict=True
            )
            if config.out not in complete
        ]
        dist.run_on_main(resume_or_initialize, runs, data, start, say)
        spread(runs, dist, device)
        yield _Ready(dist, runs, complete)


def _open_activations(config: TrainConfig, *, device: str, say: Say) -> ActivationSource:
    """The cache that the configuration names, or the stream that it describes.

    Args:
        config: whose `out` may hold an interrupted run, which goes on with the corpus as it was.
        device: where a stream's language model runs.
        say: sentences for a person.

    Raises:
        InputError: cache, corpus, model or site cannot be read.
    """
    if config.cache is not None:
        from .data.cache.reader import ActivationCache

        return ActivationCache(config.cache)
    from .data.stream.stream import open_stream

    trainer, run = config.trainer, RunFolder(config.out)
    return open_stream(
        config.stream,
        site=config.site,
        rows=trainer.n_steps * trainer.rows_per_step,
        held_out_rows=trainer.eval_rows,
        device=device,
        folder=run.path,
        begun=run.settings_if_begun(),
        say=say,
    )


def _number_of_threads(configs: Sequence[TrainConfig], dist: Distributed, say: Say) -> int:
    """Threads for every rank: as many as the first run that goes on here with as many processes was
    begun with, if this machine has them; else as many as torch has."""
    begun_with: int | None = None
    with dist.errors_on_all_ranks():
        if dist.is_main:
            folders = [RunFolder(config.out) for config in configs]
            numbers = [f.threads_begun_with(dist.world_size) for f in folders if f.has_begun()]
            begun_with = next((number for number in numbers if number), None)
        cores = allowed_cores()
        if begun_with is not None and begun_with * dist.local_world_size > cores:
            say(
                f"the run was begun with {begun_with} threads, more than there are cores here, "
                f"{cores}: last bits may differ from those of a run without an interruption"
            )
            begun_with = None
    begun_with = dist.broadcast_object(begun_with)
    return begun_with or min(dist.all_gather_object(torch.get_num_threads()))


def _open_data(configs: Sequence[TrainConfig], dist: Distributed, say: Say) -> ActivationSource:
    """The data, the same for all configurations; where a run has begun, as it began with it."""
    config = next((config for config in configs if RunFolder(config.out).has_begun()), configs[0])
    require_shared_data(config, dist.world_size)
    return _open_activations(config, device=dist.device(config.trainer.device), say=say)


def _finish(run: TrainingRun) -> dict[str, Any]:
    """Evaluate and save the trained autoencoder; every rank calls this and gets the summary."""
    run.gather_shards()
    return run.trainer.dist.run_on_main(_write_result, run)


def _write_result(run: TrainingRun) -> dict[str, Any]:
    """Write the summary and the autoencoder into the run folder, once the last checkpoint is
    written; give the summary."""
    run.writer.wait()
    config, sae, rows, steps = run.config, run.trained(), run.held_out(), run.trainer.steps_done
    learned = to_plain(sae.activation.described_config(sae))
    tokens = steps * config.trainer.rows_per_step
    rounded = [rounding_caution(rows[site], run.data.dtype, site) for site in run.sites]
    held_out = run.measure(rows)
    summary = {
        "run": config.out,
        "activation": config.activation,
        **{k: v for k, v in learned.items() if k not in ("d_model", "transcoder")},
        **({"target_site": config.target_site} if config.target_site else {}),
        "steps": steps,
        "tokens": tokens,
        "seconds": run.seconds,
        "tokens_per_second": tokens / run.seconds if run.seconds else 0.0,
        "held_out": held_out,
        "warnings": [*filter(None, rounded), *cautions(held_out)],
    }
    run.folder.log({"step": steps, "summary": summary})
    sae.save(run.folder.sae)
    return summary
