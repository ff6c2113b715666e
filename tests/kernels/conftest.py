"""Inputs of awkward sizes, and what counts as accurate."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

SHAPES = [(1, 1, 1), (1, 7, 3), (5, 33, 33), (37, 101, 13), (700, 300, 8)]
"""Rows, latents, width; none a multiple of a block."""


@pytest.fixture(params=SHAPES, ids=lambda shape: "B{}-F{}-D{}".format(*shape))
def shape(request: pytest.FixtureRequest) -> tuple[int, int, int]:
    return request.param


AccurateAsEager = Callable[[Sequence[Tensor | None], Sequence[Tensor], Sequence[Tensor]], None]


@pytest.fixture
def accurate_as_eager() -> AccurateAsEager:
    """Each result may err at most twice as much as eager in the same dtype, both against float64,
    plus a few roundings of the largest value."""

    def check(
        ours: Sequence[Tensor | None], eager: Sequence[Tensor], exact: Sequence[Tensor]
    ) -> None:
        for number, (got, same_dtype, gold) in enumerate(zip(ours, eager, exact, strict=True)):
            assert got is not None and got.isfinite().all(), number
            assert got.dtype == same_dtype.dtype and got.shape == gold.shape, number
            error = (got.double() - gold).abs().max()
            allowed = 2 * (same_dtype.double() - gold).abs().max()
            floor = 8 * torch.finfo(got.dtype).eps * gold.abs().max()
            assert error <= allowed + floor, f"output {number}: {error:.3e} over {allowed:.3e}"

    return check
