"""The fraction of rows' variance that rounding adds equals what is measured, and much is warned
of."""

from typing import Any

import pytest
import torch

from sparsteer.training.data.cache.rounding import rounding_caution, rounding_fraction
from sparsteer.training.data.cache.shards import encode_rows

SHIFTS = {"one": lambda: 1000.0 * torch.eye(24)[5], "all": lambda: torch.full((24,), 1000.0)}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize("shift", SHIFTS)
def test_it_is_about_that_of_the_measured_errors(dtype: Any, shift: str) -> None:
    x = 3 * torch.randn(4000, 24) + SHIFTS[shift]()
    stored = encode_rows(x, dtype, "site").restored()
    wide = x.double()
    measured = (stored - wide).square().sum() / (wide - wide.mean(0)).square().sum()
    # Where int8's row is flat, errors are not spread evenly over a step.
    fraction = rounding_fraction(stored, dtype)
    assert fraction == pytest.approx(float(measured), rel=0.5 if dtype == "int8" else 0.15)
    caution = rounding_caution(stored, dtype, "site")
    assert (caution is not None) == (float(measured) > 0.01)


def test_ordinary_rows_are_not_warned_of() -> None:
    x = torch.randn(1000, 24) + torch.randn(24)
    for dtype in ("float16", "bfloat16", "int8", "float32"):
        assert rounding_caution(encode_rows(x, dtype, "site").restored(), dtype, "site") is None
