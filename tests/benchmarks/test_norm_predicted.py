"""The activation with a norm predicted for each row, against its definition, and in training."""

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

ROOT = Path(__file__).parents[2]
D, F, M, L0, B = 13, 57, 20, 4, 31


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # pyright: ignore[reportUnknownMemberType] - untyped
    study = import_module("norm_predicted")
    known = dict(ACTIVATIONS._values)  # pyright: ignore[reportPrivateUsage] - restored after the test
    monkeypatch.setattr(ACTIVATIONS, "_values", known)
    register_activation(study.NormPredicted)
    return study


@pytest.mark.parametrize("share", [0.3, 0.9, 1.2])
def test_the_shortest_prefix_with_the_norm_is_kept(study: Any, share: float) -> None:
    """With coefficients (log share, 1, 0, 0, 0) the target is a multiple of the row's norm."""
    sae = SparseAutoencoder(study.NormPredictedConfig(D, F, l0=L0, most=M), seed=2)
    sae.requires_grad_(False)
    coefficients = torch.tensor([share, 1.0, 1.0, 1.0, 1.0]).log()
    coefficients[1] = 1.0
    sae.get_buffer("norm_coefficients").copy_(coefficients)
    x = torch.randn(B, D)
    counts = sae.encode_scaled(x).counts
    assert counts is not None
    for row, count in zip(x, counts, strict=True):
        values = (sae.W_enc @ row).relu().topk(M).values
        reached = [n for n in range(1, M + 1) if row_norms(values[:n]) >= share * row_norms(row)]
        assert int(count) == (reached[0] if reached else int((values > 0).sum()))


def test_the_norm_of_the_shared_code_is_predicted(study: Any) -> None:
    """From one sample of rows, whose coefficients are fitted on it, better than by its mean."""
    sae = SparseAutoencoder(study.NormPredictedConfig(24, 120, l0=6, most=60), seed=1)
    activation: Any = sae.activation
    rows = planted_rows(2048)
    activation.initialize(sae, rows, {"target_l0": 6})
    _, values, statistics = activation._candidates(sae, rows)
    threshold = values.flatten().topk(6 * len(rows)).values[-1]
    shared = row_norms(values * (values >= threshold))
    known = shared > 0
    predicted = (statistics @ sae.get_buffer("norm_coefficients"))[known]
    actual = shared[known].log()
    assert (predicted - actual).var() < 0.5 * actual.var()


@pytest.mark.slow
def test_training_comes_to_the_target(study: Any) -> None:
    n_steps, rows_of_a_step = 400, 128
    rows = planted_rows((n_steps + 8) * rows_of_a_step)
    sae = SparseAutoencoder(study.NormPredictedConfig(24, 120, l0=6, most=60), seed=1)
    tokens = n_steps * rows_of_a_step
    settings: Any = {"lr": 3e-3, "target_l0": 6, "dead_after_tokens": tokens // 10}
    trainer = Trainer(sae, TrainerConfig(tokens=tokens, batch_size=rows_of_a_step, **settings))
    trainer.initialize(rows[:1024])
    for batch in torch.split(rows[1024:], rows_of_a_step):
        trainer.step(batch, measured=False)
    with torch.no_grad():
        l0 = float((sae.encode(rows[:1024]).values > 0).sum(-1).double().mean())
    assert l0 == pytest.approx(6, rel=0.05)
