"""Training runs, one or several: open activations, initialize or resume, fit, save."""

import dataclasses
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..sae.autoencoder import SparseAutoencoder
from ..sae.common.devices import as_current, resolve_device
from ..sae.config import Origin
from ..sae.language_model.names import lasting_name
from .cautions import cautions
from .checkpoint import remove_older, restore_newest
from .checkpoint_writer import CheckpointWriter
from .chosen_precision import chosen_precision, require_multiplied
from .config import TrainConfig
from .cuda_graph import require_graphs
from .data.activation_source import ActivationSource
from .data.cache.rounding import rounding_caution
from .data.settings import to_plain
from .distributed.collectives import Distributed
from .distributed.joining import init_distributed
from .finetuning import (
    Start,
    as_started,
    copy_weights,
    into_training_units,
    read_start,
    say_start,
    start_cautions,
)
from .forecast.estimate import TrainingEstimate, estimate_run
from .graph_trainer import GraphTrainer
from .grid_loop import GridReport, fit_together
from .loop import ProgressCallback, TrainingRun, fit, read_batches
from .open_settings import as_begun, begun_with, described, left_open, with_defaults
from .preconditions import require_shared_data, required_sites, resolved_settings
from .run import RESOLVED_PRECISION, RunFolder
from .runtime.stopping import AgreedStop, StopRequest
from .runtime.threads import allowed_cores, use_threads
from .spreading import sharing_moments, spread
from .trainer import Trainer
from .trainer_config import Precision

_SAMPLE_ROWS = 16_384

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
        begun = dist.run_on_main(_begun_with, configs)
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
        precisions = dist.run_on_main(_precisions, configs, folders, device, say)
        dist.run_on_main(_say_what_was_open, configs, derived, begun, say)
        resolved = [
            resolved_settings(config, data, site, precision, names, start)
            for config, site, precision, names in zip(
                configs, sites, precisions, derived, strict=True
            )
        ]
        complete = dist.run_on_main(
            _begin_folders, configs, resolved, folders, dist.world_size, device, say
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
                _new_trainer(config, precision, data, site, initial_device, sharing, start),
                precision,
                settings,
                writer=writer,
            )
            for config, site, folder, precision, settings in zip(
                configs, sites, folders, precisions, resolved, strict=True
            )
            if config.out not in complete
        ]
        dist.run_on_main(_resume_or_initialize, runs, data, start, say)
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


def _begun_with(configs: Sequence[TrainConfig]) -> list[dict[str, Any] | None]:
    """The batch size, rate and dead window of each run that has begun; None of one that has not."""
    settings = [RunFolder(config.out).settings_if_begun() for config in configs]
    return [begun_with(found) if found else None for found in settings]


def _say_what_was_open(
    configs: Sequence[TrainConfig],
    names: Sequence[tuple[str, ...]],
    begun: Sequence[dict[str, Any] | None],
    say: Say,
) -> None:
    """Say once for all what new runs take for what was left open."""
    sentences = [
        described(config, of_it)
        for config, of_it, found in zip(configs, names, begun, strict=True)
        if of_it and found is None
    ]
    for sentence in dict.fromkeys(sentences):
        say(sentence)


def _precisions(
    configs: Sequence[TrainConfig], folders: Sequence[RunFolder], device: torch.device, say: Say
) -> list[Precision]:
    """The definite precision of each configuration; what is said is said once for all.

    Where `auto` is asked for, a run that has begun goes on in its own. A complete run multiplies
    nothing, so that its precision need not be this device's.
    """
    found: list[Precision] = []
    sentences: list[str] = []
    for config, folder in zip(configs, folders, strict=True):
        asked, begun = config.trainer.precision, folder.precision_begun_with()
        if begun is not None and folder.is_complete() and asked in ("auto", begun):
            found.append(begun)
            continue
        here = chosen_precision(config.trainer, device)
        if asked == "auto":
            if begun is None:
                sentences.append(f"training multiplies {here} on {device}; --precision chooses")
            elif begun != here:
                require_multiplied(begun, device)
                sentences.append(
                    f"{folder.path} was begun in {begun} and stays so; a new run would multiply "
                    f"{here} on {device}"
                )
            here = begun or here
        found.append(here)
    for sentence in dict.fromkeys(sentences):
        say(sentence)
    return found


def _begin_folders(
    configs: Sequence[TrainConfig],
    resolved: Sequence[dict[str, Any]],
    folders: Sequence[RunFolder],
    processes: int,
    device: torch.device,
    say: Say,
) -> dict[str, dict[str, Any]]:
    """Claim every folder, then write what the runs that are not complete begin or go on with.

    Returns the summaries of the complete ones. A folder that cannot be claimed is told before any
    is changed.
    """
    complete: dict[str, dict[str, Any]] = {}
    begun: list[tuple[RunFolder, dict[str, Any]]] = []
    for config, settings, folder in zip(configs, resolved, folders, strict=True):
        if folder.claim(settings):
            say(f"{folder.path} is complete; nothing to train")
            complete[config.out] = folder.summary()
        else:
            # A complete run that is to go further has not been asked yet.
            require_multiplied(settings[RESOLVED_PRECISION], device)
            begun.append((folder, settings))
    for folder, settings in begun:
        folder.begin(
            settings,
            threads=torch.get_num_threads(),
            device=str(device),
            processes=processes,
        )
    return complete


def _new_trainer(
    config: TrainConfig,
    precision: Precision,
    data: ActivationSource,
    site: str,
    device: torch.device,
    dist: Distributed,
    start: Start | None,
) -> Trainer:
    """The trainer of an autoencoder, all latents of it, that has seen no data: a random one, or
    the one that the run starts with.

    One that is going to be sharded lies on the CPU and takes no step, so that no precision suits it
    but the CPU's.
    """
    origin = Origin(
        model=data.model,
        site=site,
        weights_hash=data.weights_hash,
        target_site=config.target_site,
        model_dtype=data.model_dtype,
        dataset=lasting_name(data.dataset),
        context_length=data.context_length,
        prepends_bos=data.prepends_bos,
    )
    sae_config = config.sae_config(data.d_model)
    sae = SparseAutoencoder(sae_config, seed=config.trainer.seed, origin=origin)
    if start is not None:
        copy_weights(start.sae, sae)
    sae = sae.to(device)
    if config.trainer.shards > 1:
        precision = "float32"
    kind = GraphTrainer if config.trainer.cuda_graph else Trainer
    return kind(sae, dataclasses.replace(config.trainer, precision=precision), dist)


def _resume_or_initialize(
    runs: Sequence[TrainingRun], data: ActivationSource, start: Start | None, say: Say
) -> None:
    """Bring the trainers to where their runs go on, or to where new ones begin; open trackers."""
    for run in runs:
        data.held_out(site=run.site, limit=1)  # read while nothing can be lost
        _resume(run, say)
    _initialize([run for run in runs if not run.trainer.steps_done], data, start, say)
    for run in runs:
        run.folder.track(run.config.track, run.settings)


def _resume(run: TrainingRun, say: Say) -> None:
    """Load the newest checkpoint if there is one, and drop the metrics beyond it."""
    folder, trainer = run.folder, run.trainer
    run.seconds = restore_newest(folder.checkpoints, trainer, say, moments=run.moments)
    if trainer.steps_done:
        say(f"{folder.path} goes on from step {trainer.steps_done}")
        keep = run.config.trainer.keep_checkpoints
        # A process that was killed after its last checkpoint may not have removed the oldest.
        remove_older(folder.checkpoints, trainer.steps_done, keep=keep)
    folder.keep_metrics_until(trainer.steps_done)


def _initialize(
    new_runs: Sequence[TrainingRun], data: ActivationSource, start: Start | None, say: Say
) -> None:
    """Set what is estimated from a sample of the data, which is read once for the same sites; of an
    autoencoder that was trained before nothing but its units, where it has others."""
    if start is not None and new_runs:
        say_start(new_runs[0].config, start, say)
    for sites in dict.fromkeys(run.sites for run in new_runs):
        data_seed = new_runs[0].config.trainer.data_seed
        samples = [data.sample(_SAMPLE_ROWS, site=site, seed=data_seed) for site in sites]
        for site, sample in zip(sites, samples, strict=True):
            if caution := rounding_caution(sample, data.dtype, site):
                say(f"warning: {caution}")
        of_sites = [run for run in new_runs if run.sites == sites]
        for run in of_sites:
            if start is None:
                run.trainer.initialize(*samples)
            else:
                into_training_units(run.trainer.sae, *samples)
        if start is not None:
            for caution in start_cautions(of_sites[0].trainer.sae, samples[0], start.sae.origin):
                say(f"warning: {caution}")


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
