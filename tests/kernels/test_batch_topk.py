"""Batch top-k selection against its oracle: blocks, ties, few positives, samples that mislead."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsteer.kernels import batch_topk, reference
from sparsteer.kernels.batch_topk import BatchTop, batch_topk_select
from sparsteer.kernels.codes import Codes


def assert_same(ours: Codes, oracle: Codes) -> None:
    assert ours.counts is not None and oracle.counts is not None
    assert torch.equal(ours.indices, oracle.indices)
    assert torch.equal(ours.values.double(), oracle.values.double())
    assert torch.equal(ours.counts, oracle.counts)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_equals_the_oracle(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    n_rows, n_latents, _ = shape
    pre = torch.randn(n_rows, n_latents).to(dtype)
    for k in sorted({1, min(5, n_latents), n_latents}):
        ours = batch_topk_select(pre, k)
        assert ours.indices.dtype == torch.int64 and ours.values.dtype == dtype
        assert_same(ours, reference.batch_topk_select(pre, k))


@given(
    rows=st.lists(st.lists(st.integers(-2, 2), min_size=9, max_size=9), min_size=1, max_size=5),
    k=st.integers(1, 9),
)
def test_the_first_wins_a_tie(rows: list[list[int]], k: int) -> None:
    pre = torch.tensor(rows, dtype=torch.float32)
    assert_same(batch_topk_select(pre, k), reference.batch_topk_select(pre, k))


@given(
    cuts=st.lists(st.integers(0, 12), max_size=4),
    k=st.integers(1, 6),
    levels=st.integers(2, 50),
    seed=st.integers(0, 1000),
)
def test_blocks_of_rows_equal_the_whole(cuts: list[int], k: int, levels: int, seed: int) -> None:
    pre = torch.randint(-levels, levels, (12, 7), generator=torch.Generator().manual_seed(seed))
    pre = pre.float()
    top = BatchTop(12 * k, pre)
    buffer = torch.empty(12, 7)
    for first, last in pairwise([0, *sorted(cuts), 12]):
        block = buffer[: last - first].copy_(pre[first:last])
        top.add(block)
        block.fill_(torch.nan)  # as an encoder that uses its buffer again
    assert_same(top.codes(), reference.batch_topk_select(pre, k))


@pytest.mark.parametrize("sample", [1, 3, 50, 10_000])
def test_a_sample_that_misleads_costs_nothing_but_time(
    sample: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_topk, "_SAMPLE", sample)
    pre = torch.randn(30, 50)
    pre[:, ::5] += 4  # a stride of the sample meets only these, or none
    for k in (1, 7, 40):
        assert_same(batch_topk_select(pre, k), reference.batch_topk_select(pre, k))


def test_rows_take_what_they_need() -> None:
    pre = torch.rand(4, 10)
    pre[2] += 1
    pre[3] = -pre[3]
    codes = batch_topk_select(pre, 3)
    assert codes.counts is not None
    assert codes.counts.sum() == 12 and codes.counts[2] == 10 and codes.counts[3] == 0
    assert (codes.values[3] == 0).all() and (codes.indices[3] == 0).all()


def test_strided_and_repeated_calls_agree() -> None:
    pre = torch.randn(40, 130)[::2, 1::3]
    first = batch_topk_select(pre, 7)
    assert_same(batch_topk_select(pre.contiguous(), 7), first)
    assert_same(batch_topk_select(pre, 7), first)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_and_infinity_stay_visible(bad: float) -> None:
    pre = torch.randn(5, 10)
    pre[1, 4] = pre[3, 2] = bad
    values = batch_topk_select(pre, 2).values
    assert (~values.isfinite()).sum() == 2 and values[[0, 2, 4]].isfinite().all()
    pre.fill_(bad)
    codes = batch_topk_select(pre, 2)
    assert codes.counts is not None and codes.counts.tolist() == [10, 0, 0, 0, 0]  # pyright: ignore[reportUnknownMemberType] - untyped builtin


def test_no_rows_and_no_positives_give_no_codes() -> None:
    assert batch_topk_select(torch.randn(0, 5), 2).indices.shape == (0, 1)
    codes = batch_topk_select(-torch.rand(3, 5), 2)
    assert codes.indices.shape == (3, 1) and (codes.values == 0).all()


@pytest.mark.parametrize("k", [0, -1, 11])
def test_k_out_of_range_is_named(k: int) -> None:
    with pytest.raises(ValueError, match=rf"k is {k}.*10 latents"):
        batch_topk_select(torch.randn(2, 10), k)


def test_codes_pack_in_the_order_of_the_rows() -> None:
    pre: Tensor = torch.randn(6, 20)
    codes = batch_topk_select(pre, 4)
    assert codes.counts is not None
    for row, count in enumerate(map(int, codes.counts)):
        assert (codes.indices[row, :count].diff() > 0).all()
