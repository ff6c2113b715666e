"""Steps that take the width of their codes for granted: they wait for nothing, and where a row does
not fit, what is trained is what would have been trained."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae import (
    BatchTopKConfig,
    JumpReLUConfig,
    SAEConfig,
    SparseAutoencoder,
    TopAFAConfig,
)
from sparsteer.training.checkpoint import restore_newest, trainer_state, write_checkpoint
from sparsteer.training.non_finite import NonFiniteLoss
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

from .no_waiting import no_waiting

D, F, B = 8, 24, 6
CONFIGS: dict[str, SAEConfig] = {
    "batch_topk": BatchTopKConfig(D, F, 3),
    "jumprelu": JumpReLUConfig(D, F, bandwidth=0.5),
    "top_afa": TopAFAConfig(D, F),
    "top_afa of a wanted L0": TopAFAConfig(D, F, learned_scale=True),
}


@pytest.fixture(params=CONFIGS.values(), ids=[*CONFIGS])
def config(request: pytest.FixtureRequest) -> SAEConfig:
    return request.param


def trainer_of(config: SAEConfig, device: str, **settings: Any) -> Trainer:
    torch.manual_seed(1)  # pyright: ignore[reportUnknownMemberType] - untyped
    settings = {"precision": "float32", "ema_decay": 0.9} | settings
    if isinstance(config, TopAFAConfig) and config.learned_scale:
        settings["target_l0"] = 5
    trainer = TrainerConfig(tokens=1000 * B, batch_size=B, lr=1e-3, **settings)
    return Trainer(SparseAutoencoder(config).to(device), trainer)


def batches(n: int, device: str) -> list[Tensor]:
    return [*torch.randn(n, B, D, generator=torch.Generator().manual_seed(3)).to(device)]


def assert_same(ours: Trainer, theirs: Trainer) -> None:
    for trainer in (ours, theirs):
        trainer.synchronize()
    assert ours.steps_done == theirs.steps_done
    mine, other = trainer_state(ours), trainer_state(theirs)
    assert mine.keys() == other.keys() and "code_widths" in mine
    for name, tensor in mine.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.slow
def test_a_step_whose_rows_do_not_fit_is_made_again(config: SAEConfig, device: str) -> None:
    presuming, asking = trainer_of(config, device), trainer_of(config, device)
    assert presuming.code_widths is not None and asking.code_widths is not None
    for number, x in enumerate(batches(3, device)):
        if number == 1:
            for trainer, widths in (
                (presuming, presuming.code_widths),
                (asking, asking.code_widths),
            ):
                trainer.synchronize()
                widths.tensor.fill_(1)  # as if the steps before had needed no more
        assert presuming.step(x, measured=False) is None
        assert asking.step(x).loss.isfinite()
    assert_same(presuming, asking)
    assert int(presuming.code_widths.tensor.min()) > 1


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_steps_wait_for_nothing(config: SAEConfig, precision: str, device: str) -> None:
    trainer = trainer_of(config, device, precision=precision, dead_after_tokens=B)
    first, second, *rest = batches(4, device)
    trainer.step(first)
    trainer.step(second, measured=False)
    with no_waiting(device):
        for x in rest:
            trainer.step(x, measured=False)
    trainer.synchronize()
    assert trainer.steps_done == 4


@pytest.mark.slow
def test_training_goes_on_from_a_checkpoint_bit_for_bit(
    config: SAEConfig, device: str, tmp_path: Path
) -> None:
    whole, resumed = trainer_of(config, device), trainer_of(config, device)
    xs = batches(4, device)
    for x in xs[:2]:
        whole.step(x, measured=False)
    whole.synchronize()
    write_checkpoint(tmp_path, trainer_state(whole), step=2, seconds=0.0, keep=1)
    restore_newest(tmp_path, resumed, print)
    with no_waiting(device):
        whole.step(xs[2], measured=False)
    resumed.step(xs[2], measured=False)
    for trainer in (whole, resumed):
        trainer.step(xs[3], measured=False)
    assert_same(whole, resumed)


@pytest.mark.slow
def test_a_checkpoint_without_widths_is_gone_on_from(device: str, tmp_path: Path) -> None:
    config = CONFIGS["batch_topk"]
    whole, resumed = trainer_of(config, device), trainer_of(config, device)
    first, second = batches(2, device)
    whole.step(first)
    whole.synchronize()
    state = trainer_state(whole)
    del state["code_widths"]
    write_checkpoint(tmp_path, state, step=1, seconds=0.0, keep=1)
    restore_newest(tmp_path, resumed, print)
    resumed.step(second, measured=False)
    resumed.synchronize()
    assert resumed.code_widths is not None and int(resumed.code_widths.tensor.min()) > 0


@pytest.mark.slow
def test_a_batch_that_is_not_finite_is_told(config: SAEConfig, device: str) -> None:
    trainer = trainer_of(config, device)
    first, bad = batches(2, device)
    trainer.step(first)
    trainer.synchronize()
    before = copy.deepcopy(trainer_state(trainer))
    bad[3, 2] = torch.nan
    trainer.step(bad, measured=False)
    with pytest.raises(NonFiniteLoss, match=r"step 1 .*row 3 of its batch is not finite"):
        trainer.synchronize()
    for name, tensor in trainer_state(trainer).items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.slow
def test_a_batch_that_was_overwritten_is_not_made_again(device: str) -> None:
    trainer = trainer_of(CONFIGS["top_afa"], device)
    first, second = batches(2, device)
    trainer.step(first)
    trainer.synchronize()
    assert trainer.code_widths is not None
    trainer.code_widths.tensor.fill_(1)
    trainer.step(second, measured=False)
    second.zero_()
    with pytest.raises(RuntimeError, match=r"step 1 must be made again, but .* was changed"):
        trainer.synchronize()


@pytest.mark.slow
def test_widths_are_learned_every_hundredth_step(device: str) -> None:
    trainer = trainer_of(CONFIGS["top_afa"], device)
    widths = trainer.code_widths
    assert widths is not None
    x = batches(1, device)[0]
    for start, grown in [(7, False), (100, True)]:
        widths.tensor.fill_(64)
        trainer.steps_done = start
        trainer.step(x)
        trainer.synchronize()
        assert int(widths.tensor) == (48 if grown else 64)
