"""The plain sparse PyTorch step that ours is raced with does the same, as it is written first."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.training import Trainer, TrainerConfig

ROOT = Path(__file__).parents[2]
NAMES = ("b_dec", "W_enc", "b_enc", "W_dec")
LR = 1e-3


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # pyright: ignore[reportUnknownMemberType] - untyped
    return import_module("plain_sparse")


def both(plain: Any, D: int, F: int, k: int) -> tuple[Trainer, Any]:
    """Trainers of the same weights, every one of them of some size."""
    sae = SparseAutoencoder(TopKConfig(D, F, k))
    with torch.no_grad():
        sae.W_enc.add_(0.1 * torch.randn(F, D))
        sae.b_dec.copy_(0.1 * torch.randn(D))
        sae.b_enc.copy_(0.1 * torch.randn(F))
    weights = (getattr(sae, name) for name in NAMES)
    theirs = plain.PlainSparseTrainer(*weights, k=k, lr=LR)
    config = TrainerConfig(
        tokens=10**6, lr=LR, warmup_fraction=0.0, decay_fraction=0.0, clip_norm=0.0
    )
    return Trainer(sae, config), theirs


def off(found: Tensor, wanted: Tensor) -> float:
    return float(((found - wanted).square().sum() / wanted.square().sum()).sqrt())


@pytest.mark.parametrize(
    ("B", "D", "F", "k"), [(37, 24, 301, 5), (64, 16, 40, 20), (1, 8, 33, 1), (512, 48, 640, 8)]
)
def test_loss_and_gradients_are_ours(plain: Any, B: int, D: int, F: int, k: int) -> None:
    torch.default_generator.manual_seed(B)
    trainer, theirs = both(plain, D, F, k)
    x = torch.randn(B, D)
    x[0] = -100 * trainer.sae.W_enc.detach().sum(0)  # nearly all its pre-activations are negative
    losses = trainer.loss(x)
    torch.autograd.backward(losses.total)
    found = theirs.gradients(x, *theirs.encode(x))
    assert off(found.loss, losses.total.detach()) < 1e-5
    for name in NAMES:
        gradient = getattr(trainer.sae, name).grad
        assert gradient.any()
        assert off(getattr(found, name), gradient) < 1e-5, name


def test_steps_are_ours(plain: Any) -> None:
    torch.default_generator.manual_seed(0)
    trainer, theirs = both(plain, D=24, F=300, k=6)
    start = trainer.sae.W_dec.detach().clone()
    for _ in range(5):
        x = torch.randn(256, 24)
        assert off(theirs.step(x), trainer.step(x).loss) < 1e-5
    assert off(start, trainer.sae.W_dec.detach()) > 1e-3
    for name in NAMES:
        assert off(getattr(theirs, name), getattr(trainer.sae, name).detach()) < 1e-4, name
    assert torch.allclose(theirs.W_dec.norm(dim=-1), torch.ones(300))
    assert torch.equal(theirs.since_fired, trainer.tokens_since_fired)
