"""A step on a GPU: it waits for nothing, and what the host learns later changes nothing."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.training.initialize import initialize_from_rows
from sparsteer.training.non_finite import NonFiniteLoss
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

from .no_waiting import no_waiting

D, F, K, B = 16, 60, 3, 20


def batches(n: int, device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    directions = torch.randn(40, D, generator=generator)
    chosen = torch.rand(n, B, 40, generator=generator) < 0.1
    noise = 0.1 * torch.randn(n, B, D, generator=generator)
    return [*(chosen.float() @ directions + noise).to(device)]


def trainer_of(device: str, **settings: Any) -> Trainer:
    sae = SparseAutoencoder(TopKConfig(D, F, K)).to(device)
    initialize_from_rows(sae, batches(1, device)[0])
    sae.b_enc.data[:20] = -2  # silent, so that AuxK has work
    settings = {"precision": "float32"} | settings  # which is not a GPU's default
    config = TrainerConfig(
        tokens=100 * B, batch_size=B, lr=1e-3, dead_after_tokens=2 * B, **settings
    )
    return Trainer(sae, config)


SETTINGS: dict[str, dict[str, Any]] = {
    "auxk and clipping": {},
    "averages, multi-topk, falling k": {
        "clip_norm": 0.0,
        "ema_decay": 0.9,
        "multi_topk_coefficient": 0.125,
        "k_start": 10,
        "k_anneal_fraction": 0.5,
    },
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.slow
def test_a_step_waits_for_nothing(device: str, settings: dict[str, Any]) -> None:
    trainer = trainer_of(device, **settings)
    first, second, *rest = batches(5, device)
    trainer.step(first)  # which compiles, and finds out what is dead
    trainer.step(second)
    with no_waiting(device):
        fractions = [trainer.step(x).dead_fraction for x in rest]
    assert min(map(float, fractions[1:])) > 0.1  # AuxK had work


def test_what_would_wait_is_noticed(device: str) -> None:
    x = torch.rand(5, device=device)
    for waiting in (
        lambda: float(x[0]),
        lambda: x[x > 0.5],
        lambda: x.nonzero(),
        lambda: bool(x[0] > 1),
    ):
        with pytest.raises((AssertionError, RuntimeError)), no_waiting(device):
            waiting()


@pytest.mark.slow
def test_steps_are_those_of_pytorch(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead latents are those of this very step, though their number is read late."""
    ours, eager = trainer_of(device), trainer_of(device)
    for x in batches(6, device):
        metrics = ours.step(x)
        with monkeypatch.context() as patch:
            patch.setenv("SPARSTEER_KERNELS", "eager")
            expected = eager.step(x)
        assert torch.equal(metrics.dead_fraction, expected.dead_fraction)
        torch.testing.assert_close(metrics.loss, expected.loss, rtol=1e-5, atol=0)
        assert torch.equal(ours.tokens_since_fired, eager.tokens_since_fired)
    assert len(ours.dead_latents()) > 0
    ours.synchronize()
    assert torch.equal(ours.dead_latents(), eager.dead_latents())


@pytest.mark.parametrize("synchronized", [False, True])
@pytest.mark.slow
def test_counts_that_somebody_changes_are_counted_anew(device: str, synchronized: bool) -> None:
    trainer = trainer_of(device)
    for x in batches(4, device):
        if synchronized:
            trainer.synchronize()
        trainer.tokens_since_fired[30:50] = trainer.dead_after_tokens
        assert float(trainer.step(x).dead_fraction) >= 20 / F


@pytest.mark.slow
def test_a_loss_that_is_not_finite_changes_nothing_and_is_told_at_the_next_step(
    device: str,
) -> None:
    trainer = trainer_of(device)
    good, bad, further = batches(3, device)
    bad[17, 3] = torch.nan
    trainer.step(good)
    trainer.synchronize()
    before = copy.deepcopy((trainer.sae.state_dict(), trainer.optimizer.state()))
    counts = trainer.tokens_since_fired.clone()
    trainer.step(bad)
    with pytest.raises(NonFiniteLoss, match=r"step 1 .*row 17 of its batch is not finite \(1 such"):
        trainer.step(further)
    assert trainer.steps_done == 1
    for saved, now in zip(
        before, (trainer.sae.state_dict(), trainer.optimizer.state()), strict=True
    ):
        assert all(torch.equal(saved[name], now[name]) for name in saved)
    assert torch.equal(trainer.tokens_since_fired, counts)
    trainer.synchronize()  # has been told
    trainer.step(further)
    trainer.synchronize()
    assert trainer.steps_done == 2
