"""The Triton Jaccard against the oracle: duplicates, runs across tiles, unsorted and empty rows."""

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import jaccard, reference
from sparsteer.kernels.jaccard import generalized_jaccard_csr


@pytest.fixture(autouse=True, params=[4, 64])
def small_tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaccard, "_SLOTS_AT_ONCE", request.param)


def random_rows(
    n_rows: int, n_latents: int, most: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    lengths = torch.randint(0, most + 1, (n_rows,))
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    indices = torch.randint(n_latents, (int(offsets[-1]),))
    return offsets, indices, torch.rand(len(indices)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(1, 1, 30), (13, 5, 40), (17, 900, 20)])
@pytest.mark.slow_except("4-size1-dtype1", "64-size2-dtype0")
def test_equals_the_oracle(size: tuple[int, int, int], dtype: torch.dtype, device: str) -> None:
    rows = random_rows(*size, dtype)
    prototype = (torch.rand(size[1]) * (torch.rand(size[1]) < 0.7)).to(dtype)
    gold = reference.generalized_jaccard_csr(rows[0], rows[1], rows[2].double(), prototype.double())
    on_device = [tensor.to(device) for tensor in (*rows, prototype)]
    got = generalized_jaccard_csr(*on_device)
    assert got.dtype == dtype
    torch.testing.assert_close(
        got.cpu(), gold.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-15
    )
    assert torch.equal(got, generalized_jaccard_csr(*on_device))


def test_nothing_against_nothing_is_zero_and_nan_stays_in_its_row(device: str) -> None:
    offsets = torch.tensor([0, 0, 1, 3, 4], device=device)
    indices = torch.tensor([3, 1, 1, 2], device=device)
    values = torch.tensor([0.0, 0.5, torch.nan, 1.0], device=device)
    got = generalized_jaccard_csr(offsets, indices, values, torch.zeros(5, device=device))
    assert torch.equal(got.nan_to_num(nan=7.0).cpu(), torch.tensor([0.0, 0.0, 7.0, 0.0]))
    none = offsets[:1], indices[:0], values[:0], torch.rand(5, device=device)
    assert generalized_jaccard_csr(*none).shape == (0,)
