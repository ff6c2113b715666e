"""Top-k selection against its oracle, with ties, few positives and NaN."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.kernels import reference
from sparsteer.kernels.codes import Codes
from sparsteer.kernels.topk import _select_by_sort, topk_select  # pyright: ignore[reportPrivateUsage] - a GPU's path


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("k", [1, 15, 40, 999, 1000])
@pytest.mark.parametrize(
    "levels", [1, 3, 60, 10**9], ids=["equal", "heavy-ties", "ties", "distinct"]
)
def test_no_row_hides_its_largest(levels: int, k: int, dtype: torch.dtype) -> None:
    pre = torch.randint(-levels, levels + 1, (30, 1000)).to(dtype)
    pre[3] = -pre[3].abs()
    pre[4, 700:720] = torch.inf
    pre[5, :17] = -torch.inf
    pre[7] *= 1e-40  # too small for normal float32 numbers
    pre[8] *= 1e30
    for select in (topk_select, _select_by_sort):
        ours, oracle = select(pre, k), reference.topk_select(pre, k)
        assert torch.equal(ours.dense(1000), oracle.dense(1000))
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nan_counts_as_largest_and_stays_visible(sign: float, dtype: torch.dtype) -> None:
    pre = torch.randn(3, 10).to(dtype)
    pre[1, 4] = torch.tensor(torch.nan).copysign(torch.tensor(sign))
    pre[1, 2] = torch.inf
    codes = topk_select(pre, 2)
    assert torch.equal(codes.indices[1], torch.tensor([2, 4]))
    assert codes.values[1].isnan().any() and codes.values[[0, 2]].isfinite().all()


@pytest.mark.parametrize("k", [0, -1, 11])
def test_k_out_of_range_is_named(k: int) -> None:
    with pytest.raises(ValueError, match=rf"k is {k}.*10 latents"):
        topk_select(torch.randn(2, 10), k)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float64, 63), (torch.float32, 31)])
def test_nan_of_the_largest_bits_is_kept_like_others(dtype: torch.dtype, bits: int) -> None:
    keys = torch.full((2, 40), 2**bits - 1, dtype=torch.int64 if bits == 63 else torch.int32)
    codes = topk_select(keys.view(dtype), 5)
    assert codes.values.isnan().all()
    assert torch.equal(codes.indices, torch.arange(5).expand(2, 5))
