"""What a run is said to take, against what a step and a checkpoint really take on this CPU."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.kernels.policy import backend_of
from sparsteer.sae import (
    BatchTopKConfig,
    JumpReLUConfig,
    SparseAutoencoder,
    TopAFAConfig,
    TopKConfig,
)
from sparsteer.sae.config import SAEConfig
from sparsteer.training.checkpoint import trainer_state
from sparsteer.training.forecast.gpus import GPUS
from sparsteer.training.forecast.memory import (
    StepSizes,
    checkpoint_bytes,
    gpu_backend,
    memory_bytes,
    state_bytes,
    total,
    whole_state_bytes,
)
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

from ..training_cases import save_checkpoint
from .allocations import most_allocated


def sizes_of(sae: SAEConfig, trainer: TrainerConfig) -> StepSizes:
    return StepSizes(sae, trainer, "float32", backend_of(torch.empty(0)))


def new_trainer(sae: SAEConfig, batch_size: int, **settings: Any) -> Trainer:
    settings = {"tokens": 10**7, "dead_after_tokens": 10**6, "batch_size": batch_size, **settings}
    return Trainer(SparseAutoencoder(sae), TrainerConfig(**settings))


@pytest.mark.parametrize(
    ("sae", "batch_size"),
    [
        (TopKConfig(64, 4096, 8), 256),  # pre-activations count most
        (TopKConfig(128, 8192, 32), 64),  # gradients
        (TopKConfig(64, 1024, 32), 2048),  # rows and kept values
        pytest.param(TopKConfig(64, 512, 64), 1024, marks=pytest.mark.slow),  # dense products
        pytest.param(BatchTopKConfig(64, 4096, 8), 2048, marks=pytest.mark.slow),
        pytest.param(TopAFAConfig(64, 4096), 1024, marks=pytest.mark.slow),
        pytest.param(JumpReLUConfig(64, 4096), 1024, marks=pytest.mark.slow),
        pytest.param(TopKConfig(64, 1024, 16, transcoder=True), 2048, marks=pytest.mark.slow),
    ],
    ids=lambda value: (
        f"{value.activation}-{value.n_latents}" if isinstance(value, SAEConfig) else ""
    ),
)
def test_memory_is_what_a_step_takes(sae: SAEConfig, batch_size: int) -> None:
    trainer = new_trainer(sae, batch_size)
    rows = [torch.randn(batch_size, sae.d_model) for _ in range(2 if sae.transcoder else 1)]
    trainer.step(*rows)
    sizes = sizes_of(sae, trainer.config)
    state = sum(tensor.nbytes for tensor in trainer_state(trainer).values())
    assert total(state_bytes(sizes)) == pytest.approx(state, rel=0.005)
    parts = memory_bytes(sizes, 0)
    taken = most_allocated(lambda: trainer.step(*rows))
    assert 0.7 * taken < parts["gradients"] + parts["step"] < 1.4 * taken


@pytest.mark.parametrize("transcoder", [False, True])
@pytest.mark.parametrize(("width", "batch_size"), [(128, 64), (512, 16)])
def test_memory_where_a_tenth_is_dead(width: int, batch_size: int, transcoder: bool) -> None:
    """Where weights count most: AuxK's gradients are of whole matrices, too."""
    sae = TopKConfig(width, 4096, 8, transcoder=transcoder)
    trainer = new_trainer(sae, batch_size)
    rows = [torch.randn(batch_size, width) for _ in range(2 if transcoder else 1)]
    trainer.step(*rows)
    trainer.tokens_since_fired[:409] = 2 * 10**6
    parts = memory_bytes(sizes_of(sae, trainer.config), 0)
    taken = most_allocated(lambda: trainer.step(*rows))
    assert taken > (3 if transcoder else 4) * 4 * 4096 * width
    assert 0.9 * taken < parts["gradients"] + parts["step"] + parts["auxk"] < 1.4 * taken


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_checkpoint_is_as_long_as_said(tmp_path: Path, ema_decay: float | None) -> None:
    trainer = new_trainer(TopKConfig(32, 500, 8), 64, ema_decay=ema_decay)
    trainer.step(torch.randn(64, 32))
    folder = save_checkpoint(tmp_path, trainer, seconds=0.0, keep=1)
    written = sum(path.stat().st_size for path in folder.iterdir())
    said = checkpoint_bytes(sizes_of(trainer.sae.config, trainer.config))
    assert said == pytest.approx(written, rel=0.02)


def test_shards_cut_what_a_process_takes_and_no_checkpoint() -> None:
    trainer = TrainerConfig()
    whole = sizes_of(TopKConfig(64, 4096, 8), trainer)
    half = sizes_of(TopKConfig(64, 4096, 8), dataclasses.replace(trainer, shards=2))
    assert total(state_bytes(half)) == pytest.approx(total(state_bytes(whole)) / 2, rel=0.001)
    assert checkpoint_bytes(half) == pytest.approx(checkpoint_bytes(whole), rel=0.001)
    assert whole_state_bytes(whole) == 0 and whole_state_bytes(half) == checkpoint_bytes(half)


def test_a_transcoder_has_windows_and_batches_of_two_sites() -> None:
    one, two = (
        memory_bytes(sizes_of(TopKConfig(64, 512, 8, transcoder=both), TrainerConfig()), 1000)
        for both in (False, True)
    )
    assert (one["windows"], two["windows"]) == (2000, 4000)
    assert two["batches"] == 2 * one["batches"] == 4 * 4 * 4096 * 64


def test_the_fused_encoder_has_a_buffer_for_rows_that_it_cannot_verify() -> None:
    """Of all rows of the batch where these are as few as 2^27 pre-activations."""
    sae = TopKConfig(768, 12_288, 32)
    sizes = StepSizes(
        sae,
        TrainerConfig(batch_size=8192, auxk_coefficient=0.0),
        "bfloat16",
        gpu_backend(90, "bfloat16"),
    )
    parts = memory_bytes(sizes, 0)
    buffer, rows = 2 * 8192 * 12_288, 4 * 8192 * 768
    slots = 8192 * 32 * 12
    assert parts["gradients"] + parts["step"] == buffer + 3 * rows + slots


@pytest.mark.parametrize("precision", ["bfloat16", "tf32", "float32"])
@pytest.mark.parametrize("name", GPUS)
def test_on_a_gpu_the_large_parts_are_counted_by_hand(name: str, precision: str) -> None:
    """Width 4096, 131,072 latents: 1,074 million weights and so many biases."""
    sae, trainer = TopKConfig(4096, 131_072, 64), TrainerConfig(batch_size=8192, ema_decay=0.999)
    backend = gpu_backend(GPUS[name].architecture, precision)
    parts = memory_bytes(StepSizes(sae, trainer, precision, backend), 192_000_000)
    n = 2 * 4096 * 131_072 + 131_072 + 4096
    exact = {"parameters": 4 * n, "moments": 8 * n, "gradients": 4 * n, "averages": 4 * n}
    assert {name: parts[name] for name in exact} == exact
    assert parts.get("rounded_weights", 0) == (2 * n if precision == "bfloat16" else 0)
    assert parts["windows"] == 384_000_000
    # The pre-activations of the whole batch at once take less than the gradients, whose place they
    # take; rows [8192, 4096] in float32 take 134 MB.
    assert 3 * 134e6 < parts["step"] < 1.5e9
    assert 22e9 < total(parts) < 36e9
