"""Small trainings, made alike in one process and in several."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsteer.sae import (
    BatchTopKConfig,
    JumpReLUConfig,
    SparseAutoencoder,
    TopAFAConfig,
    TopKConfig,
)
from sparsteer.sae.config import SAEConfig
from sparsteer.training.checkpoint import trainer_state, write_checkpoint
from sparsteer.training.config import TrainConfig
from sparsteer.training.distributed.collectives import Distributed
from sparsteer.training.distributed.sharded import Sharded, shard_of
from sparsteer.training.initialize import initialize_from_rows
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

D, F, K, B = 24, 120, 6, 128
N_STEPS = 30

CASES: dict[str, tuple[SAEConfig, dict[str, Any]]] = {
    "topk": (TopKConfig(D, F, K), {"ema_decay": 0.9}),
    "batch_topk": (BatchTopKConfig(D, F, K), {}),
    "top_afa": (TopAFAConfig(D, F, target_scale=0.8), {}),
    "top_afa of a wanted L0": (TopAFAConfig(D, F, learned_scale=True), {"target_l0": K}),
    "multi topk": (TopKConfig(D, F, K), {"multi_topk_coefficient": 0.125}),
    "jumprelu": (JumpReLUConfig(D, F, 0.3), {"target_l0": K}),
    "jumprelu tanh": (JumpReLUConfig(D, F, 0.3), {"target_l0": K, "sparsity": "tanh"}),
    "jumprelu quadratic": (JumpReLUConfig(D, F, 0.3), {"target_l0": K, "sparsity": "quadratic"}),
    "topk penalties": (TopKConfig(D, F, K), {"loss_term": ("frequency=0.01", "orthogonality=0.1")}),
    "jumprelu penalty": (
        JumpReLUConfig(D, F, 0.3),
        {"target_l0": K, "loss_term": ("frequency=0.01",)},
    ),
    "topk with a LISTA step": (TopKConfig(D, F, K, lista_step=0.3), {}),
    "batch_topk with a LISTA step": (BatchTopKConfig(D, F, K, lista_step=0.3), {}),
    "topk of whitened rows": (TopKConfig(D, F, K), {"whitening": 0.7}),
    "nested batch_topk of whitened rows": (
        BatchTopKConfig(D, F, K, prefixes=(50,)),
        {"whitening": 1.0, "whitening_loss": "whitened"},
    ),
    "nested topk": (TopKConfig(D, F, K, prefixes=(13, 50)), {}),
    "nested batch_topk": (BatchTopKConfig(D, F, K, prefixes=(50,)), {}),
    "transcoder": (TopKConfig(D, F, K, transcoder=True), {}),
    "batch_topk transcoder": (BatchTopKConfig(D, F, K, transcoder=True), {}),
}


def planted_rows(n_rows: int) -> Tensor:
    """Rows made of few of 60 planted directions, plus noise and a mean."""
    generator = torch.Generator().manual_seed(5)
    directions = torch.randn(60, D, generator=generator)
    chosen = torch.rand(n_rows, 60, generator=generator) < 0.08
    strengths = chosen * torch.rand(n_rows, 60, generator=generator).add(0.5)
    return 2 * strengths @ directions + 0.1 * torch.randn(n_rows, D, generator=generator) + 0.5


def run_case(
    name: str,
    dist: Distributed,
    *,
    rows: Tensor | None = None,
    averages: bool = True,
    batch_size: int = B,
    device: str = "cpu",
    **changes: Any,
) -> tuple[list[dict[str, float]], Trainer]:
    """The metrics of every step and the trainer, after steps in which latents are dead and
    gradients are clipped; `changes` are of the trainer's configuration."""
    config, settings = CASES[name]
    x = planted_rows(batch_size * N_STEPS) if rows is None else rows
    # What a transcoder reads is another mixture of what it predicts.
    mixture = torch.randn(D, D, generator=torch.Generator().manual_seed(6))
    given = [x @ mixture, x] if config.transcoder else [x]
    sae = SparseAutoencoder(config, seed=1)
    sample = [of_site[:1000].nan_to_num() for of_site in given]
    initialize_from_rows(sae, *sample)
    sae.activation.initialize(sae, sample[0], {"target_l0": K})
    with torch.no_grad():
        sae.b_enc[::3] = -3
    if not averages:
        settings = {key: value for key, value in settings.items() if key != "ema_decay"}
    own = shard_of(sae, dist) if isinstance(dist, Sharded) else sae
    trainer = Trainer(
        own.to(device),
        dataclasses.replace(
            TrainerConfig(
                tokens=batch_size * N_STEPS,
                batch_size=batch_size,
                lr=3e-3,
                dead_after_tokens=5 * batch_size,
                clip_norm=0.05,
                shards=dist.n_shards,
                **settings,
            ),
            **changes,
        ),
        dist,
    )
    if trainer.whitening is not None:
        trainer.whitening.estimate(trainer.sae.scaled(sample[0]))
    curve: list[dict[str, float]] = []
    for batches in zip(*(torch.split(of_site, batch_size) for of_site in given), strict=True):
        metrics = trainer.step(
            *(batch[dist.local_rows(batch_size)].to(device) for batch in batches)
        )
        curve.append(metrics.figures())
    return curve, trainer


TRAINER = TrainerConfig(
    tokens=40 * 128,
    batch_size=128,
    lr=3e-3,
    dead_after_tokens=300,
    clip_norm=0.1,
    log_every=4,
    eval_every=16,
    eval_rows=200,
    checkpoint_every=8,
    device="cpu",
)
"""40 steps on the planted cache, a checkpoint every eighth."""


def config_of(cache: Path, out: Path, activation: Any = "topk", **changes: Any) -> TrainConfig:
    """40 steps on the planted cache, a checkpoint every eighth."""
    return TrainConfig(
        cache=str(cache),
        out=str(out),
        activation=activation,
        n_latents=70,
        k=4 if "topk" in activation else None,
        trainer=dataclasses.replace(TRAINER, **changes),
    )


def save_checkpoint(checkpoints: Path, trainer: Trainer, *, seconds: float, keep: int) -> Path:
    """Write a checkpoint of the trainer as it stands, at once."""
    state, step = trainer_state(trainer), trainer.steps_done
    return write_checkpoint(checkpoints, state, step=step, seconds=seconds, keep=keep)
