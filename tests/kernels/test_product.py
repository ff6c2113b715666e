"""The dense product by either library."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import product

AccurateAsEager = Callable[[Sequence[Tensor | None], Sequence[Tensor], Sequence[Tensor]], None]


@pytest.mark.parametrize("library", ["mkl", "onednn"])
def test_both_libraries_are_as_accurate_as_eager(
    library: str, monkeypatch: pytest.MonkeyPatch, accurate_as_eager: AccurateAsEager
) -> None:
    if library == "onednn" and not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(product, "onednn_is_faster", lambda: library == "onednn")
    monkeypatch.setattr(product, "_FEWEST_ROWS", 1)
    monkeypatch.setattr(product, "_FEWEST_WEIGHTS", 1)
    wide = torch.randn(67, 90)
    rows, weights, bias = wide[:, 1::3], torch.randn(210, 30), torch.randn(210)
    buffer = torch.full((67, 210), torch.nan)
    ours = product.affine(rows, weights, bias, buffer)
    assert (ours is buffer) == (library == "mkl")
    exact = rows.double() @ weights.double().T + bias.double()
    accurate_as_eager([ours], [rows @ weights.T + bias], [exact])
    again = product.affine(rows, weights, bias, torch.empty_like(buffer))
    assert torch.equal(ours, again)


def test_float64_and_small_products_stay_with_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "onednn_is_faster", lambda: True)
    for dtype, n_rows in [(torch.float64, 100), (torch.float32, 3)]:
        rows = torch.randn(n_rows, 8, dtype=dtype)
        weights, buffer = torch.randn(1 << 17, 8, dtype=dtype), rows.new_empty(n_rows, 1 << 17)
        assert product.affine(rows, weights, weights[:, 0], buffer) is buffer
