"""A constant that is added to every row changes nothing of what is learned."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae import (
    BatchTopKConfig,
    JumpReLUConfig,
    SparseAutoencoder,
    TopAFAConfig,
    TopKConfig,
)
from sparsteer.sae.common.files import write_json
from sparsteer.sae.common.tensor_files import load_tensors, save_tensors
from sparsteer.sae.config import SAEConfig
from sparsteer.sae.metrics import measure_rows
from sparsteer.training import Trainer, TrainerConfig
from sparsteer.training.checkpoint import restore_newest, trainer_state
from sparsteer.training.initialize import initialize_from_rows

from .training_cases import save_checkpoint

D, F, K, B, STEPS = 16, 80, 6, 128, 60
CONFIGS: dict[str, SAEConfig] = {
    "topk": TopKConfig(D, F, K),
    "batch_topk": BatchTopKConfig(D, F, K),
    "top_afa": TopAFAConfig(D, F),
    "jumprelu": JumpReLUConfig(D, F),
    "nested_topk": TopKConfig(D, F, K, prefixes=(20, 40)),
    "transcoder": TopKConfig(D, F, K, transcoder=True),
}
SHIFTS: dict[str, Callable[[], Tensor]] = {
    "30 in one dimension": lambda: 30 * torch.eye(D)[3],
    "1,000 in one dimension": lambda: 1000 * torch.eye(D)[3],
    "a million in one dimension": lambda: 1e6 * torch.eye(D)[3],
    "a million in all dimensions": lambda: torch.full((D,), 1e6),
    "thousands, of either sign": lambda: (3000 * torch.randn(D)).round(),
}

_QUICK = "a million in all dimensions"


@cache
def rows() -> tuple[Tensor, Tensor]:
    """Sparse sums of directions, of norm 15 about their mean, and what a transcoder predicts from
    them. All are multiples of 1/16, so that a million may be added in float32 without rounding."""
    generator = torch.Generator().manual_seed(2)
    acts = torch.rand(4000, 30, generator=generator)
    acts = (acts < 0.15) * (0.5 + torch.rand(4000, 30, generator=generator))
    sides = [acts @ torch.randn(30, D, generator=generator) for _ in range(2)]
    sides = [side * 15 / row_norms(side - side.mean(0)).mean() for side in sides]
    x, y = ((16 * side).round() / 16 for side in sides)
    return x, y


@cache
def trained(name: str, shift: str | None, precision: Any = "float32") -> dict[str, float | int]:
    """The measures after training on the rows, the shift added to each of either side."""
    config, constant = CONFIGS[name], torch.zeros(D) if shift is None else SHIFTS[shift]()
    moved = [side + constant for side in rows()]
    assert all(torch.equal(m - constant, side) for m, side in zip(moved, rows(), strict=True))
    sides = moved if config.transcoder else moved[:1]
    sae = SparseAutoencoder(config, seed=1)
    initialize_from_rows(sae, *sides)
    sae.activation.initialize(sae, sides[0], {"target_l0": K})
    settings = TrainerConfig(
        tokens=STEPS * B,
        batch_size=B,
        lr=4e-3,
        target_l0=K if isinstance(config, JumpReLUConfig) else None,
        dead_after_tokens=20 * B,
        precision=precision,
    )
    trainer = Trainer(sae, settings)
    order = torch.Generator().manual_seed(5)
    for _ in range(STEPS):
        chosen = torch.randint(0, 3000, (B,), generator=order)
        trainer.step(*(side[chosen] for side in sides))
    return measure_rows(sae, *(side[3000:] for side in sides)).result()


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    "shift",
    [name if name == _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SHIFTS],
)
def test_what_is_learned_does_not_depend_on_a_constant(name: str, shift: str) -> None:
    expected, found = trained(name, None), trained(name, shift)
    assert expected["fvu"] < 0.6, "nothing was learned"
    assert found["fvu"] == pytest.approx(expected["fvu"], rel=0.02)
    assert found["l0"] == pytest.approx(expected["l0"], rel=0.02)
    assert found["epsilon_lbo"] == pytest.approx(expected["epsilon_lbo"], rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["topk", "top_afa", "transcoder"])
def test_nor_does_it_in_bfloat16(name: str) -> None:
    expected, found = (
        trained(name, shift, "bfloat16") for shift in (None, "a million in all dimensions")
    )
    assert found["fvu"] == pytest.approx(expected["fvu"], rel=0.03)


@pytest.mark.parametrize("name", ["topk", "transcoder"])
def test_a_checkpoint_from_before_there_was_a_center_goes_on(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    sides = [side[:B] for side in rows()][: 2 if config.transcoder else 1]
    trainer = Trainer(SparseAutoencoder(config, seed=1), TrainerConfig(tokens=9 * B, batch_size=B))
    trainer.initialize(*sides)
    name_of_center = "output_center" if config.transcoder else "input_center"
    getattr(trainer.sae, name_of_center).zero_()
    trainer.step(*sides)
    folder = save_checkpoint(tmp_path, trainer, seconds=1.0, keep=1)
    file = folder / "trainer.safetensors"
    tensors = load_tensors(file, "")
    del tensors[f"sae.{name_of_center}"]
    save_tensors(file, tensors)
    write_json(folder / "progress.json", {"steps_done": 1, "seconds": 1.0})
    again = Trainer(SparseAutoencoder(config, seed=2), trainer.config)
    initialize_from_rows(again.sae, *sides)
    restore_newest(tmp_path, again, print)
    for one in (trainer, again):
        one.step(*sides)
    for tensor, expected in zip(
        trainer_state(again).values(), trainer_state(trainer).values(), strict=True
    ):
        assert torch.equal(tensor, expected)
