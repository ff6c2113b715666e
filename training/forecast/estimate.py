"""What a training run will take in memory, disk and time: `sparsteer train --dry-run`.

Memory and disk are counted from sizes. Time is measured on a CPU by a few steps, and predicted for
a GPU from published ceilings, which no real step reaches. Nothing is written.
"""

import dataclasses
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ...kernels.policy import backend_of
from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.devices import resolve_device
from ...sae.common.files import free_disk
from ...sae.common.memory import available_memory
from ...sae.config import SAEConfig
from ..chosen_precision import chosen_precision, with_precision
from ..config import TrainConfig
from ..cuda_graph import require_graphs
from ..data.activation_source import ActivationSource
from ..data.cache.reader import BYTES_OF_VALUE, ActivationCache
from ..data.shuffling import BUFFER_BYTES
from ..finetuning import Start
from ..open_settings import as_begun, begun_with, left_open, resolved_defaults, with_defaults
from ..preconditions import require_shared_data, required_sites, resolved_settings
from ..run import RunFolder
from ..trainer import Trainer
from ..trainer_config import TrainerConfig
from .gpus import Gpu, known_gpu, named_gpu
from .memory import (
    StepSizes,
    checkpoint_bytes,
    gpu_backend,
    memory_bytes,
    total,
    whole_state_bytes,
)

_PROBED_STEPS, _PROBE_SECONDS = 4, 10.0
_MOST_PROBED_OPERATIONS = 4e11
"""Of the encoder's product in one step: some 20 seconds on a slow core."""


@dataclass(frozen=True, kw_only=True)
class TrainingEstimate:
    """What a run will take. Sizes are in bytes; of several shards they are those of the first
    process, but on the disk those of the run."""

    run: str
    activation: str
    site: str
    d_model: int
    n_latents: int
    k: int | None
    parameters: int
    steps: int
    batch_size: int
    lr: float
    dead_after_tokens: int
    derived_settings: tuple[str, ...]
    """Which of the three above were left open."""
    device: str
    gpu: str | None
    """The GPU that is predicted for; None on a CPU, and where its ceilings are not known."""
    precision: str
    memory: dict[str, int]
    """On the device that trains, by what it is for."""
    memory_bytes: int
    """Together."""
    memory_free: int | None
    """Of a GPU that is only named, all it has; None where it is not known."""
    host_bytes: int
    """In main memory, with what this process has already; of several shards that of the first
    process."""
    checkpoint_bytes: int
    """One checkpoint."""
    disk_bytes: int
    """All checkpoints that are kept, one more while it is written, and the autoencoder."""
    disk_free: int
    seconds: float | None
    """Of the updates alone; None where it is not known."""
    seconds_are: str | None
    """`measured`, by a few steps here, or `predicted`, which is a lower bound; None with no
    seconds."""
    unknown: tuple[str, ...]
    """What the figures leave out, in sentences."""

    @property
    def fits(self) -> bool:
        """Whether memory and disk hold it, as far as that is known."""
        in_memory = self.memory_free is None or self.memory_bytes <= self.memory_free
        return in_memory and self.disk_bytes <= self.disk_free


def estimate_run(
    config: TrainConfig,
    open_data: Callable[[TrainConfig, str], ActivationSource],
    *,
    start: Start | None = None,
    gpu: str | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> TrainingEstimate:
    """Count and predict what the run of the configuration will take; its folder is not touched.

    Args:
        config: the run.
        open_data: opens the cache or stream of a configuration on a device of that name.
        start: the autoencoder that it begins with.
        gpu: a GPU to predict for, one of `GPUS`, which need not be here; by default what the
            configuration's device is.
        say: sentences for a person.

    Raises:
        InputError: what training refuses, with as many processes as there are shards, or the GPU
            is unknown or does not have the precision.
    """
    found = None if gpu is None else named_gpu(gpu)
    folder = RunFolder(config.out)
    derived = left_open(config.trainer)
    config = _as_begun(config, folder)
    device = torch.device("cpu") if found else resolve_device(config.trainer.device)
    if config.trainer.cuda_graph and found is None:
        require_graphs(device, world_size=1)
    require_shared_data(config, config.trainer.shards)
    data = open_data(config, str(device))
    if start is not None:
        start.require_width(data.d_model)
    config = with_defaults(config, data.d_model)
    trainer = config.trainer
    (site,) = required_sites([config], data, trainer.shards)
    sae = config.sae_config(data.d_model)
    memory_free: int | None
    if found is not None:
        precision, memory_free = _precision_on(found, trainer), int(found.memory_bytes)
        backend = gpu_backend(found.architecture, precision)
    elif device.type == "cuda":
        precision, memory_free = chosen_precision(trainer, device), _free_on(device)
        found = known_gpu(torch.cuda.get_device_name(device))
        major, minor = torch.cuda.get_device_capability(device)
        backend = gpu_backend(10 * major + minor, precision)
    else:
        precision, memory_free = chosen_precision(trainer, device), _free_memory()
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        backend = backend_of(torch.empty(0, device=device, dtype=dtype))
    folder.require_claimable(resolved_settings(config, data, site, precision, derived, start))
    sizes = StepSizes(sae, trainer, precision, backend)
    parts = memory_bytes(sizes, _window_bytes(config, data))
    in_host = {
        "held_out": 4 * trainer.eval_rows * sae.d_model * sizes.n_sites,
        # The first process writes checkpoints of all shards, from a whole dictionary of its own.
        "checkpoint_copy": checkpoint_bytes(sizes),
        "whole_dictionary": whole_state_bytes(sizes),
    }
    if backend.on_cpu:
        parts |= {name: n_bytes for name, n_bytes in in_host.items() if n_bytes}
        host = _own_memory() + total(parts)
    else:  # the rows on their way, too
        host = _own_memory() + total(in_host) + parts["windows"]
    seconds, seconds_are, unknown = _seconds(config, sizes, found, data, total(parts), say)
    if config.cache is None and gpu is not None:
        unknown.append("the memory and time of the language model on that GPU are not counted")
    if trainer.cuda_graph:
        unknown.append("the memory that recorded steps take is not counted")
    if trainer.shard_optimizer:
        unknown.append("memory is that of a process with whole moments and the whole batch")
    defaults = resolved_defaults(trainer, sae.n_latents, config.activation)
    disk = (trainer.keep_checkpoints + 1) * checkpoint_bytes(sizes)
    return TrainingEstimate(
        run=config.out,
        activation=config.activation,
        site=site,
        d_model=sae.d_model,
        n_latents=sae.n_latents,
        k=sae.latents_of_row,
        parameters=sizes.n_parameters,
        steps=trainer.n_steps,
        batch_size=trainer.rows_per_step,
        lr=defaults.lr,
        dead_after_tokens=defaults.dead_after_tokens,
        derived_settings=derived,
        device="cuda" if gpu else str(device),
        gpu=None if found is None else found.title,
        precision=precision,
        memory=parts,
        memory_bytes=total(parts),
        memory_free=memory_free,
        host_bytes=host,
        checkpoint_bytes=checkpoint_bytes(sizes),
        disk_bytes=disk + 4 * sizes.n_parameters * trainer.shards,
        disk_free=free_disk(folder.path),
        seconds=seconds,
        seconds_are=seconds_are,
        unknown=tuple(unknown),
    )


def _as_begun(config: TrainConfig, folder: RunFolder) -> TrainConfig:
    """The configuration with the precision, batch size, rate and dead window of the run that its
    folder holds, where they are open."""
    settings = folder.settings_if_begun()
    (config,) = as_begun([config], [begun_with(settings) if settings else None])
    begun = folder.precision_begun_with() if config.trainer.precision == "auto" else None
    if begun is None:
        return config
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, precision=begun))


def _window_bytes(config: TrainConfig, data: ActivationSource) -> int:
    """Of the stored rows that are shuffled together."""
    row_bytes = data.d_model * BYTES_OF_VALUE[data.dtype]
    if isinstance(data, ActivationCache):
        return min(BUFFER_BYTES, data.n_train * row_bytes)
    return config.stream.chunk_rows * row_bytes


def _precision_on(gpu: Gpu, trainer: TrainerConfig) -> str:
    """As `chosen_precision`, on a GPU that is only named."""
    if trainer.precision != "auto":
        gpu.operations(trainer.precision)  # refused if it has none
        return trainer.precision
    if gpu.bfloat16 is not None and trainer.shards == 1:
        return "bfloat16"
    return "float32" if gpu.tf32 is None else "tf32"


def _seconds(
    config: TrainConfig,
    sizes: StepSizes,
    gpu: Gpu | None,
    data: ActivationSource,
    needed: int,
    say: Callable[[str], None],
) -> tuple[float | None, str | None, list[str]]:
    """Seconds of all updates, what they are, and sentences about what they leave out."""
    n_steps = sizes.trainer.n_steps
    if not sizes.backend.on_cpu:
        unknown = ["memory on a GPU is computed, not measured, and without PyTorch's own half GB"]
        if gpu is None:
            return None, None, [*unknown, "the ceilings of this GPU are not known here: no time"]
        unknown += [
            "time is predicted from published ceilings, which no step reaches: selection, gathers, "
            "AuxK, reading, evaluation and saves come on top",
        ]
        return n_steps * least_step_seconds(sizes, gpu), "predicted", unknown
    if config.trainer.shards > 1:
        return None, None, ["time of a step in shards is not measured by one process"]
    operations = 2.0 * sizes.trainer.rows_per_step * sizes.n_latents * sizes.sae.d_model
    if operations > _MOST_PROBED_OPERATIONS:
        return None, None, ["a step here is too long to try one for the time"]
    free = _free_memory()
    if free is not None and needed > free:
        return None, None, ["the memory does not suffice to try a step for the time"]
    say(f"trying {_PROBED_STEPS} steps to measure their time")
    seconds = _probe(config, sizes.sae, data)
    return n_steps * seconds, "measured", ["time is that of updates alone, no latent dead"]


def least_step_seconds(sizes: StepSizes, gpu: Gpu) -> float:
    """The time that a step takes on the GPU at least: its encoder's product at the ceiling of the
    precision, and the passes over weights, gradients, moments and rows at that of its memory."""
    rows = sizes.trainer.rows_per_step * sizes.sae.d_model
    product = 2.0 * rows * sizes.n_latents / gpu.operations(sizes.precision)
    # Gradient written; it, weights and moments read by Adam, and these written.
    per_parameter = 4 + 28 + (2 + 2 + 2 if sizes.precision == "bfloat16" else 0)
    averages = 0 if sizes.trainer.ema_decay is None else 12
    moved = (per_parameter + averages) * sizes.n_parameters + 4 * 4 * rows
    return product + moved / gpu.bytes_per_second


def _probe(config: TrainConfig, sae: SAEConfig, data: ActivationSource) -> float:
    """Seconds of a step on a CPU, the shortest of a few after a first one: with rows of the cache,
    or where there is none with random ones, for those of a stream are noted in the run's folder."""
    trainer_config = config.trainer
    sites = [
        data.site_name(name) for name in (config.site, config.target_site)[: 1 + sae.transcoder]
    ]
    batch_size = trainer_config.rows_per_step
    if config.cache is None:
        rows = [torch.randn(batch_size, data.d_model) for _ in sites]
    else:
        rows = [data.sample(batch_size, site=site) for site in sites]
    cpu = torch.device("cpu")
    trainer = Trainer(SparseAutoencoder(sae), with_precision(trainer_config, cpu))
    trainer.step(*rows)
    found: list[float] = []
    while len(found) < _PROBED_STEPS and sum(found) < _PROBE_SECONDS:
        started = time.perf_counter()
        trainer.step(*rows)
        found.append(time.perf_counter() - started)
    return min(found)


def _free_memory() -> int | None:
    """Main memory that new work can have; None where the system does not tell."""
    free = available_memory()
    return None if math.isinf(free) else int(free)


def _free_on(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0]


def _own_memory() -> int:
    """What this process has in main memory now; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
