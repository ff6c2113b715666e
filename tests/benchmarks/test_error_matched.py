"""The activation of the error-matching study against its definition, and in training."""

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae import SparseAutoencoder, register_activation
from sparsteer.sae.activations.registry import ACTIVATIONS
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

from ..training.training_cases import planted_rows

pytestmark = pytest.mark.slow  # compiles

ROOT = Path(__file__).parents[2]
D, F, M, B = 13, 57, 20, 31


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # pyright: ignore[reportUnknownMemberType] - untyped
    study = import_module("error_matched")
    known = dict(ACTIVATIONS._values)  # pyright: ignore[reportPrivateUsage] - restored after the test
    monkeypatch.setattr(ACTIVATIONS, "_values", known)
    register_activation(study.ErrorMatched)
    return study


@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9, 0.01])
def test_the_shortest_prefix_that_misses_so_little_is_kept(study: Any, fraction: float) -> None:
    sae = SparseAutoencoder(study.ErrorMatchedConfig(D, F, most=M), seed=2)
    with torch.no_grad():
        sae.b_dec.copy_(0.2 * torch.randn(D))
        sae.W_enc.mul_(0.4)  # so that prefixes rebuild rows better and better, for a while
    sae.get_buffer("error_fraction").fill_(fraction)
    sae.requires_grad_(False)
    x = torch.randn(B, D)
    counts = sae.encode_scaled(x).counts
    assert counts is not None
    for row, count in zip(x - sae.b_dec, counts, strict=True):
        acts, order = (sae.W_enc @ row).relu().topk(M)
        missed = [
            float(row_norms(row - acts[:n] @ sae.W_dec[order[:n]]) / row_norms(row))
            for n in range(1, M + 1)
        ]
        reached = [n for n, part in enumerate(missed, start=1) if part <= fraction]
        expected = reached[0] if reached else 1 + min(range(M), key=lambda n: missed[n])
        assert math.isclose(missed[int(count) - 1], missed[expected - 1], rel_tol=1e-5)


def test_training_comes_to_the_target(study: Any) -> None:
    n_steps, rows_of_a_step = 400, 128
    rows = planted_rows((n_steps + 8) * rows_of_a_step)
    sae = SparseAutoencoder(study.ErrorMatchedConfig(24, 120, most=60), seed=1)
    tokens = n_steps * rows_of_a_step
    settings: Any = {"lr": 3e-3, "target_l0": 6, "dead_after_tokens": tokens // 10}
    trainer = Trainer(sae, TrainerConfig(tokens=tokens, batch_size=rows_of_a_step, **settings))
    trainer.initialize(rows[:1024])
    for batch in torch.split(rows[1024:], rows_of_a_step):
        trainer.step(batch, measured=False)
    with torch.no_grad():
        l0 = float((sae.encode(rows[:1024]).values > 0).sum(-1).double().mean())
    assert l0 == pytest.approx(6, rel=0.05)
