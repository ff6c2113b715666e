"""Training runs, one or several: activations, initialize or resume, fit, save."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..sae.autoencoder import SparseAutoencoder
from ..sae.common.devices import resolve_device
from ..sae.common.errors import InputError
from ..sae.config import Origin, config_to_dict
from ..sae.language_model.names import lasting_name
from .cautions import cautions
from .checkpoint import remove_older, restore_newest, trainer_state
from .config import TrainConfig, require_other_site
from .data.activation_source import ActivationSource, open_activations
from .data.cache.rounding import rounding_caution
from .distributed.data_parallel import DataParallel, Parallel
from .distributed.processes import Processes, processes
from .distributed.sharded import Sharded, require_shards, shard_of, shard_of_state
from .loop import GridReport, Member, fit, held_out_rows
from .run import RunFolder, plain, to_plain
from .runtime.stopping import StopRequest
from .runtime.threads import allowed_cores, use_threads
from .tracking import require_tracker
from .trainer import NonFiniteLoss, Trainer

_SAMPLE_ROWS = 16_384

Say = Callable[[str], None]

Report = Callable[[int, int, dict[str, float]], None]
"""Told after logged steps: steps done, steps in all, the newest figures."""


def train(
    config: TrainConfig,
    *,
    report: Report = lambda done, total, figures: None,
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

    def one(name: str, done: int, total: int, figures: dict[str, float]) -> None:
        report(done, total, figures)

    (outcome,) = _train([config], report=one, say=say, stop=stop)
    if isinstance(outcome, NonFiniteLoss):
        raise outcome
    return outcome


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
        Interrupted: `stop` was set; checkpoints of all were saved.
    """
    outcomes = _train(configs, report=report, say=say, stop=stop)
    return [
        {"run": config.out, "failed": str(outcome)}
        if isinstance(outcome, NonFiniteLoss)
        else outcome
        for config, outcome in zip(configs, outcomes, strict=True)
    ]


def _train(
    configs: Sequence[TrainConfig], *, report: GridReport, say: Say, stop: StopRequest | None
) -> list[dict[str, Any] | NonFiniteLoss]:
    with processes() as team, use_threads(_threads(configs, team, say)):
        return _train_together(configs, team, report=report, say=say, stop=stop or StopRequest())


def _train_together(
    configs: Sequence[TrainConfig],
    team: Processes,
    *,
    report: GridReport,
    say: Say,
    stop: StopRequest,
) -> list[dict[str, Any] | NonFiniteLoss]:
    first = configs[0]
    with team.together():
        data = _opened(configs, team, say)
        shards = first.trainer.shards
        for config in configs:
            sae_config = config.sae_config(data.d_model)
            require_shards(sae_config, shards, team.size, config.trainer.k_start)
        _require_whole_parts(first.trainer.batch_size, team.size // shards)
        sites = [_site(config, data) for config in configs]
        data.require_held_out()  # what does not suffice is refused now, not after training
        data.require_batch(first.trainer.batch_size)
        device = resolve_device(team.device(first.trainer.device))
        if team.size > 1 and device.type == "cuda":
            torch.cuda.set_device(device)
        require_tracker(first.track)
    home = device if shards == 1 else torch.device("cpu")  # a whole dictionary may be too large
    runs = [RunFolder(config.out) for config in configs]
    environment = {
        "threads": torch.get_num_threads(),
        "device": str(device),
        "processes": team.size,
    }
    try:
        outcomes: dict[str, dict[str, Any] | NonFiniteLoss] = {}
        with team.together():
            if team.is_first:
                outcomes = _begin_runs(configs, sites, runs, data, environment, say)
        outcomes = team.broadcast(outcomes)
        members = [
            Member(config, site, run, _new_trainer(config, data, site, home, team))
            for config, site, run in zip(configs, sites, runs, strict=True)
            if config.out not in outcomes
        ]
        with team.together():
            if team.is_first and members:
                for member in members:
                    data.held_out(site=member.site, limit=1)  # read while nothing can be lost
                    _resume(member, say)
                _initialize(members, data, say)
                for member in members:
                    resolved = _resolved(member.config, data, member.site)
                    member.run.track(member.config.track, resolved)
        layout = Sharded(shards, device) if shards > 1 else None
        for member in members:
            _begin_alike(member, team)
            if layout is not None:
                _cut(member, layout, device, team)
        fit(members, data, team, report=report, stop=stop)
        with team.together():
            if team.is_first:
                outcomes |= {member.config.out: _end(member, data) for member in members}
        outcomes = team.broadcast(outcomes)
        return [outcomes[config.out] for config in configs]
    finally:
        for run in runs:
            run.close()


def _opened(configs: Sequence[TrainConfig], team: Processes, say: Say) -> ActivationSource:
    """The data, for all the same; as those that have begun have it."""
    config = next((config for config in configs if RunFolder(config.out).has_begun()), configs[0])
    if config.cache is None and team.size > 1:
        raise InputError(
            f"a stream of activations is for one process, and here are {team.size}; write a cache "
            "first with `sparsteer cache`, which they can share"
        )
    return open_activations(config, device=team.device(config.trainer.device), say=say)


def _site(config: TrainConfig, data: ActivationSource) -> str:
    """The site that is read, where the data have it and what a transcoder predicts, too."""
    site = data.site_name(config.site)
    if config.target_site is not None:
        require_other_site(site, data.site_name(config.target_site))
    return site


def _threads(configs: Sequence[TrainConfig], team: Processes, say: Say) -> int:
    """Threads of the first run that goes on here with as many processes, if this machine has them;
    of new ones as many as torch has. For all processes the same."""
    with team.together():
        begun = [RunFolder(config.out) for config in configs] if team.is_first else []
        numbers = [run.threads_begun_with(team.size) for run in begun if run.has_begun()]
        threads = next((number for number in numbers if number), None)
        if threads is not None and threads * team.local_size > (cores := allowed_cores()):
            say(
                f"the run was begun with {threads} threads, more than there are cores here, "
                f"{cores}: last bits may differ from those of a run without an interruption"
            )
            threads = None
    begun_with = team.broadcast(threads)
    return begun_with or min(team.gather(torch.get_num_threads()))


def _require_whole_parts(batch_size: int, n_processes: int) -> None:
    if batch_size % n_processes:
        raise InputError(
            f"batch_size is {batch_size}, which {n_processes} processes cannot share evenly; make "
            f"it a multiple of {n_processes}"
        )


def _begin_runs(
    configs: Sequence[TrainConfig],
    sites: Sequence[str],
    runs: Sequence[RunFolder],
    data: ActivationSource,
    environment: dict[str, Any],
    say: Say,
) -> dict[str, dict[str, Any] | NonFiniteLoss]:
    """The summaries of the runs that are complete; the others begin. One that cannot be is told
    before any is changed."""
    outcomes: dict[str, dict[str, Any] | NonFiniteLoss] = {}
    begun: list[tuple[RunFolder, dict[str, Any]]] = []
    for config, site, run in zip(configs, sites, runs, strict=True):
        resolved = _resolved(config, data, site)
        if run.claim(resolved):
            outcomes[config.out] = _found(run, say)
        else:
            begun.append((run, resolved))
    for run, resolved in begun:
        run.begin(resolved, **environment)
    return outcomes


def _found(run: RunFolder, say: Say) -> dict[str, Any]:
    """The summary of a run that is complete."""
    say(f"{run.path} is complete; nothing to train")
    return run.summary()


def _resolved(config: TrainConfig, data: ActivationSource, site: str) -> dict[str, Any]:
    settings = to_plain(config)
    del settings["stream"]  # part of the data's identity if there is one
    return {
        **settings,
        "sae": plain(config_to_dict(config.sae_config(data.d_model))),
        "site": site,
        **data.identity,
    }


def _new_trainer(
    config: TrainConfig,
    data: ActivationSource,
    site: str,
    device: torch.device,
    team: Processes,
) -> Trainer:
    """The trainer of an autoencoder that has seen no data."""
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
    sae = SparseAutoencoder(sae_config, seed=config.trainer.seed, origin=origin).to(device)
    return Trainer(sae, config.trainer, DataParallel() if team.size > 1 else Parallel())


def _resume(member: Member, say: Say) -> None:
    """Take the autoencoder to its newest checkpoint if there is one."""
    run, trainer = member.run, member.trainer
    member.seconds = restore_newest(run.checkpoints, trainer, say)
    if trainer.steps_done:
        say(f"{run.path} goes on from step {trainer.steps_done}")
        keep = member.config.trainer.keep_checkpoints
        remove_older(run.checkpoints, trainer.steps_done, keep=keep)  # the last may not have
    run.keep_metrics_until(trainer.steps_done)


def _begin_alike(member: Member, team: Processes) -> None:
    """Let all processes begin where the first one is."""
    trainer = member.trainer
    trainer.parallel.copy_from_first(trainer_state(trainer).values())
    trainer.steps_done = team.broadcast(trainer.steps_done)


def _cut(member: Member, layout: Sharded, device: torch.device, team: Processes) -> None:
    """Leave the process its shard to train; the first keeps the whole to save and to measure."""
    whole = member.trainer
    member.trainer = Trainer(shard_of(whole.sae, layout).to(device), member.config.trainer, layout)
    member.trainer.steps_done = whole.steps_done
    parts = shard_of_state(trainer_state(whole), layout)
    for name, tensor in trainer_state(member.trainer).items():
        tensor.copy_(parts[name])
    member.whole = whole if team.is_first else None


def _initialize(members: Sequence[Member], data: ActivationSource, say: Say) -> None:
    """Set what those that begin estimate from the data, all of the same sites from the same
    rows."""
    fresh = [member for member in members if not member.trainer.steps_done]
    for sites in dict.fromkeys(member.sites for member in fresh):
        data_seed = fresh[0].config.trainer.data_seed
        rows = [data.sample(_SAMPLE_ROWS, site=site, seed=data_seed) for site in sites]
        for site, sample in zip(sites, rows, strict=True):
            if caution := rounding_caution(sample, data.dtype, site):
                say(f"warning: {caution}")
        for member in fresh:
            if member.sites == sites:
                member.trainer.initialize(*rows)


def _end(member: Member, data: ActivationSource) -> dict[str, Any] | NonFiniteLoss:
    """Measure and save the trained autoencoder."""
    if member.failure is not None:
        return member.failure
    trainer = member.whole or member.trainer
    config, sae = member.config, trainer.trained()
    tokens = trainer.steps_done * config.trainer.batch_size
    rows = held_out_rows([member], data)
    rounded = [rounding_caution(rows[site], data.dtype, site) for site in member.sites]
    summary = {
        "run": config.out,
        "activation": config.activation,
        **{k: v for k, v in to_plain(sae.config).items() if k not in ("d_model", "transcoder")},
        **({"target_site": config.target_site} if config.target_site else {}),
        "steps": trainer.steps_done,
        "tokens": tokens,
        "seconds": member.seconds,
        "tokens_per_second": tokens / member.seconds if member.seconds else 0.0,
        "held_out": (held_out := member.measures(sae, rows)),
        "warnings": [*filter(None, rounded), *cautions(held_out)],
    }
    member.run.log({"step": trainer.steps_done, "summary": summary})
    sae.save(member.run.sae)
    return summary
