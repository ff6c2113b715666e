"""The Triton selections against the oracle in float64: awkward sizes, ties, NaN, strides."""

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import dispatch, policy, reference
from sparsteer.kernels.batch_topk import BatchTop, batch_topk_select
from sparsteer.kernels.codes import Codes
from sparsteer.kernels.jumprelu import jumprelu_select
from sparsteer.kernels.top_afa import top_afa_select
from sparsteer.kernels.topk import topk_select


@pytest.fixture(params=["in registers", "by groups"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of top-k meet every shape."""
    if request.param == "by groups":
        monkeypatch.setattr(policy, "LONGEST_IN_REGISTERS", 0)
    return request.param


@pytest.fixture(params=["in registers", "by groups", "by groups of a long list"])
def afa_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All ways of top-AFA: the whole row in registers, listed groups there, or read each time."""
    if request.param != "in registers":
        monkeypatch.setattr(policy, "_LONGEST_TOP_AFA_IN_REGISTERS", 0)
    if request.param == "by groups of a long list":
        monkeypatch.setenv("SPARSTEER_TILES", "select_listed:HELD=16,EMIT=64")
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
@pytest.mark.parametrize("size", [(1, 7), (3, 33), (2, 3000)])
@pytest.mark.slow_except(
    "by groups-size1-dtype0",
    "by groups-size2-dtype1",
    "in registers-size1-dtype1",
    "in registers-size2-dtype2",
)
def test_topk_equals_the_oracle(
    path: str, dtype: torch.dtype, size: tuple[int, int], device: str
) -> None:
    n_rows, n_latents = size
    pre = awkward_rows(n_rows, n_latents, dtype, device)
    for k in sorted({1, n_latents // 3 + 1, min(n_latents, 2048)}):
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
    wide, k = torch.randn(4, 60, device=device), 2
    for pre in (wide[::2], wide[1:3, ::3], wide[:, :2].T):
        assert torch.equal(
            topk_select(pre, k).dense(pre.shape[1]),
            topk_select(pre.contiguous(), k).dense(pre.shape[1]),
        )


def test_topk_of_more_tied_groups_than_fit_in_registers(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "LONGEST_IN_REGISTERS", 0)
    pre = torch.randint(-1, 3, (3, 900), device=device).float()
    pre[1] = 1
    for k in (1, 5):  # 32 and 128 candidates in registers; about 900 in the list
        ours, oracle = topk_select(pre, k), reference.topk_select(pre.double(), k)
        assert torch.equal(ours.dense(900).double(), oracle.dense(900))


def test_topk_of_no_rows(path: str, device: str) -> None:
    assert topk_select(torch.randn(0, 40, device=device), 3).indices.shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-3, 0.5, 1e3])
@pytest.mark.parametrize("size", [(1, 1), (3, 33), (2, 3000)])
@pytest.mark.slow_except(
    "in registers-size0-0.5-dtype0",
    "by groups-size1-1000.0-dtype1",
    "by groups of a long list-size1-0.001-dtype0",
    "in registers-size2-0.5-dtype0",
    "by groups-size2-0.5-dtype1",
)
def test_top_afa_equals_the_oracle(
    afa_path: str, dtype: torch.dtype, scale: float, size: tuple[int, int], device: str
) -> None:
    n_rows, n_latents = size
    pre = awkward_rows(n_rows, n_latents, dtype, device)
    norms = (torch.rand(n_latents, device=device) + 0.5).to(dtype)
    target = (torch.rand(n_rows, device=device) * n_latents**0.5 * scale).to(dtype)
    ours = top_afa_select(pre, norms, target)
    # The order of the latents is that of products in float32, which hold two bfloat16 exactly.
    scaled = pre.relu().float() * norms.float()
    oracle = reference.top_afa_select(
        scaled.double(), torch.ones_like(norms, dtype=torch.float64), target.double()
    )
    assert ours.counts is not None and oracle.counts is not None
    assert torch.equal(ours.counts, oracle.counts)
    kept = oracle.dense(n_latents) > 0
    assert torch.equal(ours.dense(n_latents), torch.where(kept, pre, 0))
    assert ours.values.dtype == dtype and (ours.indices[ours.values == 0] == 0).all()


def test_top_afa_with_ties_across_the_cut(afa_path: str, device: str) -> None:
    pre = torch.randint(-1, 4, (5, 40), device=device).float()
    norms = torch.ones(40, device=device)
    target = torch.linspace(0, 14, 5, device=device)
    ours = top_afa_select(pre, norms, target)
    oracle = reference.top_afa_select(pre.double(), norms.double(), target.double())
    assert torch.equal(ours.dense(40).double(), oracle.dense(40))


@pytest.mark.slow
def test_top_afa_sums_squares_beyond_float32(afa_path: str, device: str) -> None:
    # In float32 4096^2 + 1 is 4096^2: no further entry would bring the norm nearer.
    pre = torch.ones(2, 4096, device=device)
    pre[:, 7] = 4096
    target = torch.tensor([4096.0**2 + 900, 4096.0**2 + 33], device=device).sqrt()
    target = torch.nextafter(target, torch.full_like(target, torch.inf))
    ours = top_afa_select(pre, torch.ones(4096, device=device), target)
    norms = torch.ones(4096, device=device, dtype=torch.float64)
    oracle = reference.top_afa_select(pre.double(), norms, target.double())
    assert ours.counts is not None and oracle.counts is not None
    assert torch.equal(ours.counts, oracle.counts)
    assert int(ours.counts.min()) > 8


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_top_afa_of_values_whose_squares_float32_cannot_hold(
    afa_path: str, scale: float, device: str
) -> None:
    pre = awkward_rows(3, 200, torch.float32, device)
    pre[:, 5] = 4
    pre *= scale
    target = torch.tensor([1.0, 5.0, 9.0], device=device) * scale
    ours = top_afa_select(pre, torch.ones(200, device=device), target)
    norms = torch.ones(200, device=device, dtype=torch.float64)
    oracle = reference.top_afa_select(pre.double(), norms, target.double())
    assert ours.counts is not None and oracle.counts is not None
    assert torch.equal(ours.counts, oracle.counts)
    assert int(oracle.counts.max()) > 5
    assert torch.equal(ours.dense(200).double(), oracle.dense(200))


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy in the interpreter, as intended
def test_top_afa_keeps_one_where_nothing_is_nearest(afa_path: str, device: str) -> None:
    pre = torch.rand(5, 50, device=device)
    pre[0, 20] = pre[0, 30] = torch.nan
    pre[1, 40] = torch.inf
    target = torch.tensor([1.0, 1.0, torch.nan, torch.inf, 0.0], device=device)
    codes = top_afa_select(pre, torch.ones(50, device=device), target)
    assert codes.counts is not None and (codes.counts == 1).all()
    assert codes.values[0].isnan().all() and (codes.indices[0] == 20).all()
    assert codes.values[1].isinf().all()
    assert torch.equal(codes.indices[2:, 0], pre[2:].argmax(-1))


@pytest.mark.slow
def test_top_afa_never_cuts(device: str) -> None:
    pre, norms = torch.rand(3, 30, device=device), torch.ones(30, device=device)
    target = torch.full((3,), 2.5, device=device)
    free = top_afa_select(pre, norms, target)
    wide = top_afa_select(pre, norms, target, max_active=30)
    assert wide.indices.shape == (3, 30) and torch.equal(wide.dense(30), free.dense(30))
    with pytest.raises(ValueError, match="more than max_active=1"):
        top_afa_select(pre, norms, target, max_active=1)


def assert_same(ours: Codes, oracle: Codes) -> None:
    assert ours.counts is not None and oracle.counts is not None
    assert torch.equal(ours.indices, oracle.indices)
    assert torch.equal(ours.values.double(), oracle.values.double())
    assert torch.equal(ours.counts, oracle.counts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(1, 7), (5, 33), (3, 3000)])
@pytest.mark.slow_except("size1-dtype1", "size2-dtype0")
def test_batch_topk_equals_the_oracle(
    dtype: torch.dtype, size: tuple[int, int], device: str
) -> None:
    n_rows, n_latents = size
    pre = awkward_rows(n_rows, n_latents, dtype, device)
    for k in sorted({1, n_latents // 3 + 1, n_latents}):
        ours = batch_topk_select(pre, k)
        assert ours.values.dtype == dtype
        assert_same(ours, reference.batch_topk_select(pre.double(), k))


def test_batch_topk_of_blocks_and_ties(device: str) -> None:
    pre = torch.randint(-2, 4, (7, 40), device=device).float()
    for k in (1, 9, 30):
        top = BatchTop(7 * k, pre)
        for rows in (slice(0, 2), slice(2, 2), slice(2, 7)):
            top.add(pre[rows])
        assert_same(top.codes(), reference.batch_topk_select(pre, k))


def test_batch_topk_keeps_nan_and_infinity_visible_and_reads_strided_rows(device: str) -> None:
    pre = torch.randn(8, 60, device=device)[::2, ::2]
    pre[0, 17], pre[1, 18], pre[2, 3] = torch.nan, torch.inf, -torch.inf
    codes = batch_topk_select(pre, 2)
    assert codes.values.isnan().sum() == 1 and codes.values.isinf().sum() == 1
    assert codes.counts is not None and int(codes.counts.sum()) == 8
    assert batch_topk_select(pre[:0], 2).indices.shape == (0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(1, 7), (5, 33), (3, 3000)])
def test_jumprelu_equals_the_oracle(dtype: torch.dtype, size: tuple[int, int], device: str) -> None:
    n_rows, n_latents = size
    pre = awkward_rows(n_rows, n_latents, dtype, device)
    threshold = torch.rand(n_latents, device=device)
    codes = jumprelu_select(pre, threshold, 0.3)
    dense = reference.jumprelu(pre, threshold)
    assert torch.equal(codes.dense(n_latents), dense)
    assert codes.counts is not None and codes.l0_gate is not None
    assert torch.equal(codes.counts, (dense > 0).sum(-1))
    assert torch.equal(codes.l0_gate.sum(-1), codes.counts.to(dtype))
    # Every latent in the lower half of the rectangle has a slot of value 0.
    beside = (pre <= threshold) & (pre > threshold - 0.15)
    slots = Codes(codes.indices, (codes.values == 0).to(dtype)).dense(n_latents)
    assert ((slots > 0) | ~beside | (torch.arange(n_latents, device=device) == 0)).all()


def test_jumprelu_keeps_nan_and_reads_strided_rows(device: str) -> None:
    pre = torch.randn(4, 90, device=device)[::2, ::3]
    pre[1, 18] = torch.nan
    threshold = torch.rand(30, device=device)
    codes = jumprelu_select(pre, threshold)
    assert codes.values.isnan().sum() == 1 and codes.values[0].isfinite().all()
    assert torch.equal(codes.dense(30)[0], reference.jumprelu(pre, threshold)[0])
    assert jumprelu_select(pre[:0], threshold, 0.1).indices.shape[0] == 0
