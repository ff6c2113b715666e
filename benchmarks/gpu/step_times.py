"""Whole training steps: host, launches, the device's busy time and memory, with and without dead
latents."""

import copy
from functools import lru_cache, partial

import torch

from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.training.cuda_graph import WARM_UPS
from sparsteer.training.graph_trainer import GraphTrainer
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

from .device import Device, host_and_wall_ms
from .operator_checks import drawn, dtype_of
from .rows import Judged, NotThere, Rows
from .sizes import LARGE, MIDDLE, PRECISIONS, SMALL, TINY, Sizes, trainer_precision

_FLOAT32_BYTES_OF_A_WEIGHT = 36
"""Weights, moments and gradients in float32, their bfloat16 copies, and AuxK's parts."""


def time_steps(device: Device, rows: Rows, tiny: bool) -> None:
    """Every size, precision, and none or a tenth of the latents dead, what matters most first."""
    order = [(TINY, precision) for precision in ("bfloat16", "float32")]
    if not tiny:
        order = [
            *((SMALL, precision) for precision in PRECISIONS),
            *((LARGE, precision) for precision in ("bfloat16", "tf32")),
            *((MIDDLE, precision) for precision in PRECISIONS),
            (LARGE, "float32"),
        ]
    for each, precision in order:
        for dead in (0, each.latents // 10):
            for replayed in (False, True):
                if replayed and precision != "bfloat16":
                    continue  # what the host has to do is alike in all
                device.release()
                rows.run(
                    f"step {each} {precision}, {dead:,} dead" + replayed * ", replayed",
                    partial(time_step, device, each, precision, dead, replayed),
                )


@lru_cache(maxsize=1)
def _on_host(sizes: Sizes) -> SparseAutoencoder:
    """To be copied; one of the large size takes ten seconds to draw."""
    return SparseAutoencoder(TopKConfig(sizes.width, sizes.latents, sizes.k))


def random_autoencoder(device: Device, sizes: Sizes) -> SparseAutoencoder:
    """A random autoencoder on the device, the same at each call."""
    return copy.deepcopy(_on_host(sizes)).to(device.kind)


def trainer_with_dead(
    device: Device, sizes: Sizes, precision: str, dead: int, *, cuda_graph: bool = False
) -> Trainer:
    """A trainer whose first latents are dead, and stay so: nothing that they encode is large."""
    dtype_of(precision)
    need = _FLOAT32_BYTES_OF_A_WEIGHT * 2 * sizes.weights / 1e9
    if device.free_gb() < need:
        raise NotThere(f"memory: about {need:.0f} GB of the device")
    sae = random_autoencoder(device, sizes)
    config = TrainerConfig(
        tokens=10**9,
        batch_size=sizes.rows,
        dead_after_tokens=10**8,
        precision=trainer_precision(precision, device.kind),
        cuda_graph=cuda_graph,
    )
    trainer = GraphTrainer(sae, config) if cuda_graph else Trainer(sae, config)
    trainer.initialize(drawn(device, sizes.rows, sizes.width))
    with torch.no_grad():
        sae.W_enc[:dead] *= 0.01
        trainer.tokens_since_fired[:dead] = config.dead_after_tokens or 0
    return trainer


def time_step(
    device: Device, sizes: Sizes, precision: str, dead: int, replayed: bool = False
) -> Judged:
    """The step at one size, launched kernel by kernel or as CUDA graphs."""
    if replayed and device.kind != "cuda":
        raise NotThere("CUDA graphs")
    trainer = trainer_with_dead(device, sizes, precision, dead, cuda_graph=replayed)
    batches = [drawn(device, sizes.rows, sizes.width) for _ in range(2)]
    turn = iter(range(1 << 30))

    def step() -> None:
        trainer.step(batches[next(turn) % 2], measured=False)  # as most steps of a run

    for _ in range(min(3 + 2 * WARM_UPS if replayed else 3, device.most_repeats)):
        step()
    dead_fraction = trainer.step(batches[0]).dead_fraction
    host, wall = host_and_wall_ms(device, step, 20 if sizes.weights < 1 << 26 else 6)
    use = device.kernels(step, 3)
    found = Judged().note(
        ms=wall,
        host_ms=host,
        busy_ms=use.busy_ms,
        launches=use.launches,
        peak_gb=device.peak_gb(),
        rows_per_s=1e3 * sizes.rows / wall,
        longest=", ".join(f"{name} {ms:.2f}" for name, ms in use.longest[:8]),
    )
    found.at_most("dead_off", abs(float(dead_fraction) * sizes.latents - dead), sizes.latents / 50)
    trainer.synchronize()
    return found
