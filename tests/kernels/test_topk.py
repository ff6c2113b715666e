"""Top-k selection against its oracle, with ties, few positives and NaN."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.kernels import reference
from sparsteer.kernels.codes import Codes
from sparsteer.kernels.topk import largest, topk_select


def assert_well_formed(codes: Codes) -> None:
    """Unused slots are (0, 0); used ones hold distinct latents."""
    used = codes.values > 0
    assert (codes.indices[~used] == 0).all() and (codes.values[~used] == 0).all()
    for indices, mask in zip(codes.indices, used, strict=True):
        assert len(set(map(int, indices[mask]))) == int(mask.sum())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_equals_the_oracle(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    n_rows, n_latents, _ = shape
    pre = torch.randn(n_rows, n_latents).to(dtype)
    for k in {1, min(5, n_latents), n_latents}:
        ours, oracle = topk_select(pre, k), reference.topk_select(pre, k)
        assert ours.indices.shape == ours.values.shape == (n_rows, k)
        assert ours.indices.dtype == torch.int64 and ours.values.dtype == dtype
        assert ours.counts is None
        assert torch.equal(ours.dense(n_latents), oracle.dense(n_latents))
        assert_well_formed(ours)


@given(
    rows=st.lists(st.lists(st.integers(-2, 2), min_size=9, max_size=9), min_size=1, max_size=4),
    k=st.integers(1, 9),
)
def test_the_lowest_index_wins_a_tie(rows: list[list[int]], k: int) -> None:
    pre = torch.tensor(rows, dtype=torch.float32)
    ours, oracle = topk_select(pre, k), reference.topk_select(pre, k)
    assert torch.equal(ours.dense(9), oracle.dense(9))
    assert_well_formed(ours)


@pytest.mark.parametrize("n_latents", [4096, 4104, 4099], ids=["16", "8", "no-groups"])
@pytest.mark.parametrize("k", [1, 15, 40])
@pytest.mark.parametrize("levels", [3, 60, 10**9], ids=["heavy-ties", "ties", "distinct"])
def test_groups_of_columns_hide_nothing(levels: int, k: int, n_latents: int) -> None:
    pre = torch.randint(-levels, levels, (30, n_latents)).double()
    pre[3] = -pre[3].abs()
    pre[4, 700:720] = torch.inf
    pre[5, :17] = -torch.inf
    pre[6, [5, 600]] = torch.nan
    assert torch.equal(largest(pre, k)[0].nan_to_num(7), pre.topk(k).values.nan_to_num(7))
    pre[6] = 1
    ours, oracle = topk_select(pre, k), reference.topk_select(pre, k)
    assert torch.equal(ours.dense(n_latents), oracle.dense(n_latents))
    assert_well_formed(ours)


def test_strided_and_repeated_calls_agree() -> None:
    wide = torch.randn(40, 130)
    pre = wide[::2, 1::3]
    first = topk_select(pre, 7)
    assert torch.equal(first.dense(43), topk_select(pre.contiguous(), 7).dense(43))
    assert torch.equal(first.indices, topk_select(pre, 7).indices)


def test_permuting_latents_permutes_the_codes() -> None:
    pre = torch.randn(20, 50)
    order = torch.randperm(50)
    assert torch.equal(
        topk_select(pre[:, order], 6).dense(50), topk_select(pre, 6).dense(50)[:, order]
    )


def test_nan_stays_visible() -> None:
    pre = torch.randn(3, 10)
    pre[1, 4] = torch.nan
    values = topk_select(pre, 2).values
    assert values[1].isnan().any() and values[[0, 2]].isfinite().all()


@pytest.mark.parametrize("k", [0, -1, 11])
def test_k_out_of_range_is_named(k: int) -> None:
    with pytest.raises(ValueError, match=rf"k is {k}.*10 latents"):
        topk_select(torch.randn(2, 10), k)
