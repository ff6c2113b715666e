"""Steps that are replayed as CUDA graphs end with the bits of those that are not.

Interpreted, a tape stands in for the graphs: it repeats operators and launches with the very
tensors and numbers that were recorded.
"""

import copy
import os
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.training.checkpoint import trainer_state
from sparsteer.training.cuda_graph import CudaRecorder, Recorder
from sparsteer.training.graph_trainer import GraphTrainer
from sparsteer.training.initialize import initialize_from_rows
from sparsteer.training.non_finite import NonFiniteLoss
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

from .tape import Tape

D, K, B = 16, 3, 12
F, N_STEPS = (36, 7) if os.environ.get("TRITON_INTERPRET") == "1" else (600, 20)
N_SILENT = F // 3

pytestmark = pytest.mark.slow


def batches(n: int, device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    directions = torch.randn(40, D, generator=generator)
    chosen = torch.rand(n, B, 40, generator=generator) < 0.1
    return [
        *(chosen.float() @ directions + 0.1 * torch.randn(n, B, D, generator=generator)).to(device)
    ]


def recorder_on(device: str) -> Recorder:
    return Tape() if device == "cpu" else CudaRecorder(torch.device(device))


def trainer_on(
    device: str, recorder: Recorder | None = None, *, transcoder: bool = False, **settings: Any
) -> GraphTrainer:
    prefixes = settings.pop("prefixes", ())
    sae = SparseAutoencoder(TopKConfig(D, F, K, prefixes=prefixes, transcoder=transcoder))
    sae = sae.to(device)
    rows = batches(2, device)
    initialize_from_rows(sae, rows[0], rows[1] if transcoder else None)
    sae.b_enc.data[:N_SILENT] = -2  # silent, so that AuxK has work
    settings = {"precision": "float32", "tokens": N_STEPS * B, "lr": 1e-3} | settings
    config = TrainerConfig(batch_size=B, dead_after_tokens=B, cuda_graph=True, **settings)
    return GraphTrainer(sae, config, recorder=recorder or recorder_on(device))


def state_of(trainer: Trainer) -> dict[str, Tensor]:
    trainer.synchronize()
    return {name: tensor.detach().clone() for name, tensor in trainer_state(trainer).items()}


def require_equal(ours: Trainer, other: Trainer) -> None:
    assert ours.steps_done == other.steps_done
    expected = state_of(other)
    for name, tensor in state_of(ours).items():
        assert torch.equal(tensor, expected[name]), name


KINDS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"precision": "bfloat16", "ema_decay": 0.9},
    "multi-topk, falling k, no clipping": {
        **{"multi_topk_coefficient": 0.125, "clip_norm": 0.0},
        **{"k_start": 6, "k_anneal_fraction": 0.2},
    },
    "nested": {"prefixes": (12, 24)},
    "transcoder": {"transcoder": True, "precision": "bfloat16"},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_replayed_steps_are_those_that_are_launched_one_by_one(
    kind: dict[str, Any], device: str
) -> None:
    """The learning rate rises and falls over these steps, and latents die and revive."""
    recorder = recorder_on(device)
    ours, launched = trainer_on(device, recorder, **kind), trainer_on(device, **kind)
    rows = batches(N_STEPS + 1, device)
    for step in range(N_STEPS):
        sides = (rows[step], rows[step + 1])[: 1 + ours.sae.config.transcoder]
        metrics = ours.step(*sides, measured=step % 5 == 0)
        expected = launched.step(*sides)  # measured, and so never replayed
        if metrics is not None:
            assert metrics.figures() == expected.figures()
    require_equal(ours, launched)
    assert any(kind.dead_places for kind in ours.recorded) and not launched.recorded
    if isinstance(recorder, Tape):
        assert recorder.n_replayed >= 4


def test_without_dead_latents_steps_are_those_of_a_trainer(device: str) -> None:
    """Padding is all that differs."""
    ours = trainer_on(device)
    config = TrainerConfig(
        batch_size=B, tokens=N_STEPS * B, lr=1e-3, precision="float32", dead_after_tokens=10**6
    )
    plain = Trainer(copy.deepcopy(ours.sae), config)
    ours.dead_after_tokens = plain.dead_after_tokens
    for x in batches(6, device):
        ours.step(x, measured=False)
        plain.step(x, measured=False)
    assert ours.recorded
    require_equal(ours, plain)


def test_with_dead_latents_steps_are_close_to_those_of_a_trainer(device: str) -> None:
    ours = trainer_on(device)
    config = TrainerConfig(
        batch_size=B, tokens=N_STEPS * B, lr=1e-3, precision="float32", dead_after_tokens=B
    )
    plain = Trainer(copy.deepcopy(ours.sae), config)
    fractions: list[float] = []
    for x in batches(6, device):
        ours.step(x, measured=False)
        fractions.append(float(plain.step(x).dead_fraction))
    assert ours.recorded and max(fractions) > 0.1
    expected = state_of(plain)
    for name, tensor in state_of(ours).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)


def test_a_run_that_is_resumed_goes_on_with_the_same_bits(device: str) -> None:
    """The steps after the resumption warm up anew, while the others are replayed."""
    kind = KINDS["bfloat16"]
    whole, rows = trainer_on(device, **kind), batches(N_STEPS, device)
    for x in rows[:5]:
        whole.step(x, measured=False)
    saved = state_of(whole)
    resumed = trainer_on(device, **kind)
    for name, tensor in trainer_state(resumed).items():
        tensor.copy_(saved[name])
    resumed.steps_done = 5
    for x in rows[5:]:
        for trainer in (whole, resumed):
            trainer.step(x, measured=False)
    require_equal(resumed, whole)


def test_a_loss_that_is_not_finite_changes_nothing_and_is_told_at_the_next_step(
    device: str,
) -> None:
    trainer, rows = trainer_on(device), batches(8, device)
    for x in rows[:6]:
        trainer.step(x, measured=False)
    before = state_of(trainer)
    n_recorded = len(trainer.recorded)
    bad = rows[6].clone()
    bad[7, 3] = torch.nan
    trainer.step(bad, measured=False)
    with pytest.raises(NonFiniteLoss, match=r"step 6 .*row 7 of its batch is not finite \(1 such"):
        trainer.step(rows[7], measured=False)
    assert trainer.steps_done == 6 and len(trainer.recorded) == n_recorded > 0
    for name, tensor in state_of(trainer).items():
        assert torch.equal(tensor, before[name]), name


def test_weights_that_somebody_changes_are_seen(device: str) -> None:
    """In bfloat16, too, where a graph reads copies of them."""
    kind = KINDS["bfloat16"]
    ours, launched = trainer_on(device, **kind), trainer_on(device, **kind)
    for step, x in enumerate(batches(9, device)):
        for trainer in (ours, launched):
            if step == 4:
                with torch.no_grad():
                    trainer.sae.W_enc[3] *= 2
                    trainer.tokens_since_fired[20:24] = trainer.dead_after_tokens
            trainer.step(x, measured=trainer is launched)
    assert ours.recorded
    require_equal(ours, launched)


def test_batches_of_another_shape_are_taken_without_a_graph(device: str) -> None:
    ours, launched = trainer_on(device), trainer_on(device)
    for step, x in enumerate(batches(7, device)):
        for trainer in (ours, launched):
            trainer.step(x[:7] if step == 5 else x, measured=trainer is launched)
    assert ours.recorded
    require_equal(ours, launched)
