"""Widths follow what steps needed: up where a row did not fit, down every hundredth step."""

import torch

from sparsteer.kernels.capacity import SlotCapacity
from sparsteer.training.code_widths import CodeWidths


def learned(step: int, old: tuple[int, int], needed: tuple[int, int]) -> list[int]:
    widths = CodeWidths(2, torch.zeros(1))
    widths.tensor.copy_(torch.tensor(old))
    capacity = widths.capacity(step, asks=True)
    assert capacity.widths == old
    widths.learn(SlotCapacity(old, True, needed), step)
    return [int(width) for width in widths.tensor]


def test_every_hundredth_step_moves_both_parts() -> None:
    assert learned(100, (64, 64), (10, 200)) == [48, 256]


def test_other_steps_change_nothing_where_all_fits() -> None:
    assert learned(7, (64, 64), (10, 60)) == [64, 64]


def test_a_part_that_fits_does_not_fall_where_the_other_does_not() -> None:
    assert learned(7, (64, 64), (10, 200)) == [64, 256]
