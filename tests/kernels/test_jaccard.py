"""Generalized Jaccard of sparse rows: the oracle, the algebra, duplicates, and wrong input."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsteer.kernels import jaccard, reference
from sparsteer.kernels.jaccard import generalized_jaccard_csr

Rows = list[dict[int, float]]
N_LATENTS = 11

amounts = st.floats(0, 100, width=32, allow_subnormal=False)
sparse_rows = st.lists(
    st.dictionaries(st.integers(0, N_LATENTS - 1), amounts, max_size=N_LATENTS), max_size=5
)
prototypes = st.lists(amounts, min_size=N_LATENTS, max_size=N_LATENTS)


def csr(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    lengths = torch.tensor([0, *(len(row) for row in rows)])
    indices = [index for row in rows for index in row]
    values = [value for row in rows for value in row.values()]
    return lengths.cumsum(0), torch.tensor(indices, dtype=torch.int64), torch.tensor(values).float()


def random_csr(
    n_rows: int, n_latents: int, most: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Unsorted rows of random lengths, empty ones included, with many duplicates."""
    lengths = torch.randint(0, most + 1, (n_rows,))
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    indices = torch.randint(n_latents, (int(offsets[-1]),))
    return offsets, indices, torch.rand(len(indices), dtype=dtype)


@pytest.mark.parametrize("n_rows, n_latents, most", [(1, 1, 3), (7, 33, 9), (301, 5000, 60)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equals_the_oracle(n_rows: int, n_latents: int, most: int, dtype: torch.dtype) -> None:
    rows = random_csr(n_rows, n_latents, most, dtype)
    prototype = torch.rand(n_latents, dtype=dtype) * (torch.rand(n_latents) < 0.5)
    got = generalized_jaccard_csr(*rows, prototype)
    gold = reference.generalized_jaccard_csr(rows[0], rows[1], rows[2].double(), prototype.double())
    assert got.dtype == dtype
    torch.testing.assert_close(got, gold.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-15)


def test_many_blocks_of_rows_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, prototype = random_csr(50, 40, 30, torch.float64), torch.rand(40, dtype=torch.float64)
    whole = generalized_jaccard_csr(*rows, prototype)
    for cells in (1, 40, 90, 41 * 7):
        monkeypatch.setattr(jaccard, "_TABLE_CELLS", cells)
        assert torch.equal(generalized_jaccard_csr(*rows, prototype), whole)


@given(rows=sparse_rows, prototype=prototypes)
def test_any_rows_equal_the_oracle_and_lie_between_0_and_1(
    rows: Rows, prototype: list[float]
) -> None:
    p = torch.tensor(prototype)
    got = generalized_jaccard_csr(*csr(rows), p)
    offsets, indices, values = csr(rows)
    gold = reference.generalized_jaccard_csr(offsets, indices, values.double(), p.double())
    torch.testing.assert_close(got.double(), gold, rtol=1e-6, atol=1e-7)
    assert ((got >= 0) & (got <= 1)).all()


@given(prototype=prototypes, row=prototypes)
def test_symmetric_in_row_and_prototype(prototype: list[float], row: list[float]) -> None:
    one = generalized_jaccard_csr(*csr([dict(enumerate(row))]), torch.tensor(prototype))
    other = generalized_jaccard_csr(*csr([dict(enumerate(prototype))]), torch.tensor(row))
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@given(rows=sparse_rows, prototype=prototypes, order=st.permutations(range(N_LATENTS)))
def test_renaming_the_latents_changes_nothing(
    rows: Rows, prototype: list[float], order: list[int]
) -> None:
    renamed = [{order[index]: value for index, value in row.items()} for row in rows]
    moved = torch.zeros(N_LATENTS)
    moved[torch.tensor(order)] = torch.tensor(prototype)
    torch.testing.assert_close(
        generalized_jaccard_csr(*csr(renamed), moved),
        generalized_jaccard_csr(*csr(rows), torch.tensor(prototype)),
        rtol=1e-6,
        atol=1e-7,
    )


def test_one_on_equal_rows_and_zero_on_disjoint_ones() -> None:
    p = torch.rand(40) + 0.1
    p[20:] = 0
    own, disjoint = {i: float(p[i]) for i in range(20)}, {30: 2.0, 25: 1.0}
    got = generalized_jaccard_csr(*csr([own, disjoint]), p)
    torch.testing.assert_close(got, torch.tensor([1.0, 0.0]), rtol=1e-6, atol=0)


def test_nothing_against_nothing_is_zero() -> None:
    got = generalized_jaccard_csr(*csr([{}, {3: 0.0}, {3: 1.5}]), torch.zeros(5))
    assert torch.equal(got, torch.zeros(3))
    assert generalized_jaccard_csr(*csr([]), torch.rand(5)).shape == (0,)


def test_duplicates_count_as_their_sum() -> None:
    p = torch.tensor([0.5, 3.0, 1.0])
    offsets = torch.tensor([0, 4, 6])
    split = generalized_jaccard_csr(
        offsets, torch.tensor([1, 0, 1, 1, 2, 2]), torch.tensor([1.0, 2.0, 0.25, 0.75, 0.5, 4.0]), p
    )
    summed = generalized_jaccard_csr(*csr([{0: 2.0, 1: 2.0}, {2: 4.5}]), p)
    torch.testing.assert_close(split, summed)
    torch.testing.assert_close(summed, torch.tensor([2.5 / 6.0, 1.0 / 8.0]))


def test_repeats_bit_for_bit() -> None:
    rows, p = random_csr(80, 300, 90), torch.rand(300)
    assert torch.equal(generalized_jaccard_csr(*rows, p), generalized_jaccard_csr(*rows, p))


def test_nan_stays_in_its_row() -> None:
    got = generalized_jaccard_csr(*csr([{0: 1.0}, {1: float("nan")}, {2: 1.0}]), torch.ones(3))
    assert torch.equal(got.isnan(), torch.tensor([False, True, False]))


@pytest.mark.parametrize(
    "offsets, indices, values, message",
    [
        ([1, 2], [0, 1], [1.0, 1.0], "offsets"),
        ([0, 1], [0, 1], [1.0, 1.0], "offsets"),
        ([0, 2, 1, 2], [0, 1], [1.0, 1.0], "offsets"),
        ([], [], [], "offsets"),
        ([0, 2], [0, 4], [1.0, 1.0], "0 to 4.*4 latents"),
        ([0, 2], [-1, 2], [1.0, 1.0], "-1 to 2"),
        ([0, 2], [1, 2], [1.0, -1.0], "negative"),
    ],
)
def test_wrong_input_is_named(
    offsets: list[int], indices: list[int], values: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        generalized_jaccard_csr(
            torch.tensor(offsets, dtype=torch.int64),
            torch.tensor(indices, dtype=torch.int64),
            torch.tensor(values),
            torch.rand(4),
        )
