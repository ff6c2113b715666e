"""A choice among several processes' entries, which are threads here, against one of all rows."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsteer.kernels import reference
from sparsteer.kernels.batch_topk import BatchTop
from sparsteer.kernels.codes import Codes
from sparsteer.kernels.encode import encode_batch_topk
from sparsteer.kernels.process_group import ProcessGroup, distributed_topk_mask


def together(size: int, work: Callable[[ProcessGroup], Tensor | Codes]) -> list[Tensor | Codes]:
    """What `work` returns on each of so many threads that are each other's group."""
    barrier = Barrier(size, timeout=20)
    given_by_all: list[Tensor] = [torch.zeros(0)] * size

    def run(rank: int) -> Tensor | Codes:
        def all_reduce(counts: Tensor) -> Tensor:
            given_by_all[rank] = counts
            barrier.wait()
            summed = torch.stack(given_by_all).sum(0)
            barrier.wait()
            return summed

        return work(ProcessGroup(rank, size, all_reduce))

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


@given(
    parts=st.lists(st.lists(st.integers(1, 4), max_size=9), min_size=1, max_size=4),
    n_kept=st.integers(1, 40),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_the_largest_and_of_ties_the_first(
    parts: list[list[int]], n_kept: int, dtype: torch.dtype
) -> None:
    values = [torch.tensor(part, dtype=dtype) ** 9 / 77 for part in parts]
    masks = together(
        len(parts), lambda group: distributed_topk_mask(values[group.rank], n_kept, group)
    )
    every = torch.cat(values)
    order = every.argsort(descending=True, stable=True)[:n_kept]
    expected = torch.zeros(len(every), dtype=torch.bool).index_fill(0, order, True)
    assert torch.equal(torch.cat([mask for mask in masks if isinstance(mask, Tensor)]), expected)


@given(seed=st.integers(0, 999), size=st.integers(1, 4), n_kept=st.integers(1, 300))
def test_values_of_all_magnitudes(seed: int, size: int, n_kept: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = (torch.randn(size, 57, generator=generator) * 30).exp()  # subnormal to infinite
    values[values == 0] = 1e-45
    values[0, 3] = torch.nan
    masks = together(size, lambda group: distributed_topk_mask(values[group.rank], n_kept, group))
    kept = torch.stack([mask for mask in masks if isinstance(mask, Tensor)])
    scores = values.nan_to_num(nan=torch.inf, posinf=torch.inf)
    assert kept.sum() == min(n_kept, values.numel())
    assert kept.all() or scores[kept].min() >= scores[~kept].max()


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("k", [1, 4, 13])
def test_rows_in_several_processes_get_the_codes_of_one_batch(size: int, k: int) -> None:
    rows = torch.randint(-9, 9, (size * 7, 13)).float()
    rows[:7] *= 3  # the first has most of the largest
    codes = together(size, lambda group: _chosen(rows[group.rank * 7 :][:7], k, group))
    dense = [part.dense(13) for part in codes if isinstance(part, Codes)]
    assert torch.equal(torch.cat(dense), reference.batch_topk_select(rows, k).dense(13))


def _chosen(rows: Tensor, k: int, group: ProcessGroup) -> Codes:
    top = BatchTop(len(rows) * group.size * k, rows)
    top.add(rows[:3].clone())
    top.add(rows[3:].clone())
    return top.codes(group)


def test_encoding_chooses_among_all_ranks() -> None:
    x, W_enc = torch.randint(-4, 4, (10, 6)).float(), torch.randint(-3, 3, (11, 6)).float()
    b_dec, b_enc = torch.ones(6), torch.randint(-2, 2, (11,)).float()
    codes = together(
        2,
        lambda group: encode_batch_topk(x[group.rank * 5 :][:5], b_dec, W_enc, b_enc, 3, group),
    )
    dense = torch.cat([part.dense(11) for part in codes if isinstance(part, Codes)])
    assert torch.equal(dense, encode_batch_topk(x, b_dec, W_enc, b_enc, 3).dense(11))
