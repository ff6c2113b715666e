"""The Triton selections against the oracle in float64: awkward sizes, ties, NaN, strides."""

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import dispatch, reference, topk
from sparsteer.kernels.topk import topk_select


@pytest.fixture(params=["in registers", "by groups"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of top-k meet every shape."""
    if request.param == "by groups":
        monkeypatch.setattr(topk, "_LONGEST_IN_REGISTERS", 0)
    return request.param


def awkward_rows(n_rows: int, n_latents: int, dtype: torch.dtype, device: str) -> Tensor:
    """Random rows; the first without positives, the second full of ties, if there are so many."""
    pre = torch.randn(n_rows, n_latents)
    if n_rows > 1:
        pre[0] = -pre[0].abs()
        pre[1] = (2 * pre[1]).round()
    return pre.to(device, dtype)


def test_the_kernels_run(device: str) -> None:
    assert dispatch.uses_triton(torch.ones(1, device=device))
    assert not dispatch.uses_triton(torch.ones(1, device=device, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 33), (6, 300), (3, 5000)])
def test_topk_equals_the_oracle(
    path: str, dtype: torch.dtype, size: tuple[int, int], device: str
) -> None:
    n_rows, n_latents = size
    pre = awkward_rows(n_rows, n_latents, dtype, device)
    for k in sorted({1, min(5, n_latents), n_latents // 3 + 1, min(n_latents, 2048)}):
        ours, oracle = topk_select(pre, k), reference.topk_select(pre.double(), k)
        assert ours.values.dtype == dtype and ours.indices.dtype == torch.int64
        assert ours.indices.shape == ours.values.shape == (n_rows, k)
        assert torch.equal(ours.dense(n_latents).double(), oracle.dense(n_latents))
        unused = ours.values == 0
        assert (ours.indices[unused] == 0).all()


def test_topk_keeps_nan_and_infinity_visible(path: str, device: str) -> None:
    pre = torch.randn(4, 90, device=device)
    pre[0, 17], pre[1, 18], pre[2, 60] = torch.nan, torch.inf, -torch.inf
    values = topk_select(pre, 3).values
    assert values[0].isnan().sum() == 1 and values[1].isinf().sum() == 1
    assert values[2:].isfinite().all()


def test_topk_reads_strided_rows(path: str, device: str) -> None:
    wide = torch.randn(10, 130, device=device)
    for pre in (wide[::2], wide[:, ::3], wide.T):
        k = 4
        assert torch.equal(
            topk_select(pre, k).dense(pre.shape[1]),
            topk_select(pre.contiguous(), k).dense(pre.shape[1]),
        )


def test_topk_of_no_rows(path: str, device: str) -> None:
    assert topk_select(torch.randn(0, 40, device=device), 3).indices.shape == (0, 3)
