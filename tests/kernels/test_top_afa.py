"""top-AFA selection against the sorting oracle in float64 and against a search by hand."""

from inspect import unwrap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsteer.kernels import reference
from sparsteer.kernels.numerics import row_norms
from sparsteer.kernels.top_afa import _select_by_sort, top_afa_select  # pyright: ignore[reportPrivateUsage] - a GPU's path


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(n_rows: int, n_latents: int) -> tuple[Tensor, Tensor, Tensor]:
    pre = torch.randn(n_rows, n_latents)
    norms = torch.rand(n_latents) + 0.5
    return pre, norms, torch.rand(n_rows) * n_latents**0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3], ids=["tiny", "fitting", "huge"])
def test_equals_the_float64_oracle(
    shape: tuple[int, int, int], dtype: torch.dtype, scale: float
) -> None:
    pre, norms, target = (tensor.to(dtype) for tensor in inputs(shape[0], shape[1]))
    target = target * scale
    ours = top_afa_select(pre, norms, target)
    oracle = reference.top_afa_select(pre.double(), norms.double(), target.double())
    assert ours.counts is not None and oracle.counts is not None
    assert torch.equal(ours.counts, oracle.counts)
    assert torch.equal(ours.dense(shape[1]).double(), oracle.dense(shape[1]))
    assert ours.indices.shape[1] == int(oracle.counts.max())


@pytest.mark.parametrize("levels", [4, 10**9], ids=["ties", "distinct"])
def test_rows_that_need_more_than_the_first_ones_are_settled_too(levels: int) -> None:
    n_latents = 4096
    pre = torch.randint(-levels, levels, (80, n_latents)).double() / levels
    norms = torch.rand(n_latents, dtype=torch.float64) + 0.5
    target = torch.rand(80, dtype=torch.float64) * 3
    target[20:26] = torch.tensor([9.0, 17.0, 30.0, 1e3, 0.0, 12.0])
    pre[30] = -pre[30].abs()
    pre[31, 40:] = -1
    ours = top_afa_select(pre, norms, target)
    oracle = reference.top_afa_select(pre, norms, target)
    assert ours.counts is not None and oracle.counts is not None
    assert torch.equal(ours.counts, oracle.counts)
    assert torch.equal(ours.dense(n_latents), oracle.dense(n_latents))
    assert int(ours.counts[:16].max()) < 64 < int(ours.counts[22])


@given(
    rows=st.lists(st.lists(st.integers(-1, 3), min_size=8, max_size=8), min_size=1, max_size=4),
    target=st.floats(0, 12),
)
def test_ties_go_to_the_lowest_indices(rows: list[list[int]], target: float) -> None:
    pre = torch.tensor(rows, dtype=torch.float64)
    targets = torch.full((len(rows),), target, dtype=torch.float64)
    norms = torch.ones(8, dtype=torch.float64)
    ours, oracle = (
        select(pre, norms, targets) for select in (top_afa_select, reference.top_afa_select)
    )
    assert torch.equal(ours.dense(8), oracle.dense(8))


@pytest.mark.parametrize("extra", [900, 3000])
def test_squares_are_summed_beyond_float32(extra: int) -> None:
    # In float32 4096^2 + 1 is 4096^2: no further entry would bring the norm nearer.
    pre = torch.ones(2, 5000)
    pre[:, 7] = 4096
    target = torch.full((2,), 4096.0**2 + extra, dtype=torch.float64).sqrt()
    codes = top_afa_select(pre, torch.ones(5000), target)
    assert codes.counts is not None
    assert torch.equal(codes.counts, torch.full((2,), extra + 1))


@pytest.mark.parametrize("n_equal", [3, 64, 128, 200])
def test_ties_that_cross_the_searched_width_go_to_the_lowest_indices(n_equal: int) -> None:
    # The last entries of equal size begin within the first searched ones and end beyond them.
    pre = torch.full((20, 400), -1.0)
    pre[:, 100 : 100 + n_equal] = 1
    pre[:, 350] = 9
    target = torch.full((20,), (81 + n_equal - 1.0) ** 0.5)
    codes = top_afa_select(pre, torch.ones(400), target)
    oracle = reference.top_afa_select(pre.double(), torch.ones(400).double(), target.double())
    assert torch.equal(codes.dense(400).double(), oracle.dense(400))
    assert codes.counts is not None and int(codes.counts[0]) == n_equal


def test_no_other_prefix_is_nearer() -> None:
    pre, norms, target = inputs(50, 90)
    codes = top_afa_select(pre, norms, target)
    scaled = (pre.relu() * norms).sort(descending=True).values.double()
    assert codes.counts is not None
    for row in range(50):
        gaps = [
            abs(float(scaled[row, :n].square().sum().sqrt()) - float(target[row]))
            for n in range(1, 91)
        ]
        assert gaps[int(codes.counts[row]) - 1] <= min(gaps) + 1e-12


def test_more_latents_than_the_first_width_are_found() -> None:
    pre = torch.rand(4, 500) + 0.5
    target = torch.tensor([0.1, 3.0, 15.0, 100.0])
    counts = top_afa_select(pre, torch.ones(500), target).counts
    assert counts is not None
    assert counts[0] == 1 and 64 < counts[2] < 500 and counts[3] == 500


def test_a_row_without_positives_has_one_slot_of_value_zero() -> None:
    pre = torch.randn(3, 20)
    pre[1] = -pre[1].abs()
    codes = top_afa_select(pre, torch.ones(20), torch.full((3,), 2.0))
    assert codes.counts is not None and codes.counts[1] == 1
    assert (codes.values[1] == 0).all() and (codes.indices[1] == 0).all()


def test_max_active_pads_and_never_cuts() -> None:
    pre, norms, target = inputs(9, 40)
    free = top_afa_select(pre, norms, target)
    largest = free.indices.shape[1]
    padded = top_afa_select(pre, norms, target, max_active=largest + 3)
    assert padded.indices.shape == (9, largest + 3)
    assert torch.equal(padded.dense(40), free.dense(40))
    with pytest.raises(ValueError, match=f"keeps {largest} latents, more than max_active=1"):
        top_afa_select(pre, norms, target, max_active=1)


def test_no_rows_give_no_codes() -> None:
    codes = top_afa_select(torch.randn(0, 5), torch.ones(5), torch.randn(0))
    assert codes.indices.shape[0] == 0 and codes.counts is not None and len(codes.counts) == 0


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
@pytest.mark.parametrize("of_norm", [0.0, 0.3, 0.9, 2.0])
def test_rows_of_any_size_are_cut_where_the_float64_oracle_cuts(
    scale: float, of_norm: float
) -> None:
    pre, norms = random(0, 20, 333) * scale, random(1, 333).abs()
    norms[::7] = 0.0
    target = of_norm * row_norms(pre.relu().double() * norms)
    wanted = reference.top_afa_select(pre.double(), norms.double(), target)
    found = top_afa_select(pre, norms, target)
    assert found.counts is not None and wanted.counts is not None
    assert torch.equal(found.counts, wanted.counts)
    assert torch.equal(found.indices, wanted.indices)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_kept_and_seen(bad: float) -> None:
    pre, norms = random(0, 3, 50), torch.ones(50)
    pre[1, 30] = bad
    found = top_afa_select(pre, norms, torch.full((3,), 2.0))
    assert found.counts is not None and found.counts[1] == 1 and found.indices[1, 0] == 30
    assert not found.values[1, 0].isfinite() and found.values[[0, 2]].isfinite().all()


def test_minus_infinity_is_never_kept() -> None:
    pre, norms = random(0, 3, 50), random(1, 50).abs()
    masked = pre.clone()
    masked[pre < 0] = -torch.inf
    target = torch.full((3,), 2.0)
    wanted, found = (top_afa_select(rows, norms, target) for rows in (pre, masked))
    assert torch.equal(found.indices, wanted.indices) and torch.equal(found.values, wanted.values)


@pytest.mark.parametrize("target", [torch.nan, torch.inf])
def test_a_target_that_is_not_finite_keeps_the_largest_alone(target: float) -> None:
    pre = random(0, 4, 50)
    found = top_afa_select(pre, torch.ones(50), torch.full((4,), target))
    assert found.indices.shape == (4, 1) and torch.equal(found.indices[:, 0], pre.argmax(-1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_sort_of_a_gpu_without_kernels_gives_the_same(dtype: torch.dtype) -> None:
    pre = (random(0, 30, 200) * 8).round().div(8).to(dtype)  # with ties
    norms, target = random(1, 200).abs().to(dtype), random(2, 30).abs().mul(9).to(dtype)
    found, wanted = (select(pre, norms, target) for select in (top_afa_select, _select_by_sort))
    assert found.counts is not None and wanted.counts is not None
    assert torch.equal(found.counts, wanted.counts)
    assert torch.equal(found.indices, wanted.indices)
    assert torch.equal(found.values, wanted.values)


@pytest.mark.parametrize(("n_norms", "n_targets"), [(1, 20), (49, 20), (50, 1), (50, 21)])
def test_norms_or_targets_of_another_length_are_refused(n_norms: int, n_targets: int) -> None:
    with pytest.raises(ValueError, match=rf"\[20, 50\].*\[{n_norms}\].*\[{n_targets}\]"):
        # Without the tests' check of shapes, which users do not have.
        unwrap(top_afa_select)(random(0, 20, 50), torch.ones(n_norms), torch.ones(n_targets))


def test_norms_of_zero_keep_the_first_latent_as_the_oracle_does() -> None:
    pre, norms, target = random(0, 5, 20), torch.zeros(20), torch.ones(5)
    found, wanted = top_afa_select(pre, norms, target), reference.top_afa_select(pre, norms, target)
    assert torch.equal(found.indices, wanted.indices)
    assert torch.equal(found.values, wanted.values)


def test_more_rows_than_one_piece_are_cut_alike() -> None:
    pre, norms, target = random(0, 1100, 60), random(1, 60).abs(), random(2, 1100).abs().mul(4)
    target[700] = torch.inf
    found = top_afa_select(pre, norms, target)
    assert found.counts is not None
    for rows in (slice(0, 3), slice(510, 514), slice(698, 703), slice(1097, 1100)):
        alone = top_afa_select(pre[rows], norms, target[rows])
        assert alone.counts is not None and torch.equal(found.counts[rows], alone.counts)
        assert torch.equal(found.dense(60)[rows], alone.dense(60))
