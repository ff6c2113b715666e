"""Verified rows are the dense oracle's: the bounds hold, and no winner is missed."""

from inspect import unwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsteer.kernels import encode, reference
from sparsteer.kernels.accelerators.candidates import bounds
from sparsteer.kernels.accelerators.screening import bound_errors, rounded, screened_topk
from sparsteer.kernels.codes import Codes
from sparsteer.kernels.numerics import row_norms
from sparsteer.kernels.policy import Backend, EncodePlan


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def always(n_rows: int, width: int, n_latents: int, k: int, backend: Backend) -> EncodePlan:
    return EncodePlan("screened", "the test wants it")


def require_exact(codes: Codes, x: Tensor, W: Tensor, b: Tensor, k: int) -> None:
    """Largest values, each at its own index, in float64 but for float32 rounding."""
    pre_BF = x.double() @ W.double().T + b.double()
    largest_product_B1 = row_norms(x.double())[:, None] * row_norms(W.double()).max()
    allowed_B1 = 1e-5 * (largest_product_B1 + b.abs().max())
    wanted_BK = pre_BF.topk(k).values.relu()
    found_BK = codes.values.double().sort(-1, descending=True).values
    assert ((found_BK - wanted_BK).abs() <= allowed_B1).all()
    used_BK = codes.values > 0
    assert ((pre_BF.gather(-1, codes.indices) - codes.values).abs() <= allowed_B1)[used_BK].all()
    places_BF = torch.zeros_like(pre_BF).scatter_add_(-1, codes.indices, used_BK.double())
    assert (places_BF <= 1).all()
    assert (codes.indices[~used_BK] == 0).all() and (codes.values[~used_BK] == 0).all()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    B=st.integers(1, 9),
    D=st.integers(1, 70),
    F=st.integers(2, 130),
    k=st.integers(1, 12),
    row_scale=st.sampled_from([0.0, 1e-30, 1e-12, 1.0, 1e12, 1e30]),
    weight_scale=st.sampled_from([1e-25, 1e-3, 1.0, 1e3]),
    bias_scale=st.sampled_from([0.0, 1e-3, 1.0, 1e6]),
    directions=st.integers(1, 130),
    apart=st.sampled_from([0.0, 1e-6, 1e-4, 1e-2]),
)
def test_a_verified_row_is_never_wrong(
    seed: int,
    B: int,
    D: int,
    F: int,
    k: int,
    row_scale: float,
    weight_scale: float,
    bias_scale: float,
    directions: int,
    apart: float,
) -> None:
    k = min(k, F - 1)
    x = random(seed, B, D) * row_scale
    # Few directions: many latents that differ by less than bfloat16 tells apart.
    nearly_tied = random(seed + 1, directions, D)[torch.arange(F) % directions]
    W = (nearly_tied + apart * random(seed + 2, F, D)) * weight_scale
    b = random(seed + 3, F) * bias_scale
    codes, verified = screened_topk(x, W, b, k)
    kept = Codes(codes.indices[verified], codes.values[verified])
    require_exact(kept, x[verified], W, b, k)


def test_ordinary_rows_are_verified() -> None:
    x, W, b = random(0, 300, 65), random(1, 997, 65), random(2, 997)
    codes, verified = screened_topk(x, W, b, 5)
    assert verified.float().mean() > 0.9
    wanted = reference.topk_select(reference.pre_activations(x, torch.zeros(65), W, b), 5)
    assert torch.equal(
        codes.indices[verified].sort().values, wanted.indices[verified].sort().values
    )


def test_a_winner_that_bfloat16_cannot_tell_is_found() -> None:
    D, F, k = 64, 400, 4
    x = torch.ones(3, D)
    # All round to 1 + 2**-7, but the winner by the least.
    W = torch.full((F, D), 1 + 0.6 * 2.0**-7)
    W[-1] = 1 + 0.9 * 2.0**-7
    codes, verified = screened_topk(x, W, torch.zeros(F), k)
    assert not verified.any()  # all latents are candidates
    W[10:-1] = 0.5
    codes, verified = screened_topk(x, W, torch.zeros(F), k)
    assert verified.all() and (codes.indices[:, 0] == F - 1).all()


@pytest.mark.parametrize("positive", [0, 1, 3])
def test_rows_of_few_positive_products_leave_slots_unused(positive: int) -> None:
    x, W = torch.ones(5, 8), -random(1, 300, 8).abs()
    W[100 : 100 + positive] *= -1
    codes, verified = screened_topk(x, W, torch.zeros(300), 6)
    assert verified.all()
    require_exact(codes, x, W, torch.zeros(300), 6)
    assert ((codes.values > 0).sum(-1) == positive).all()


def test_rows_that_are_tried_first_in_vain_leave_the_others_untried() -> None:
    x, W, b = torch.ones(300, 40), torch.ones(500, 40), torch.zeros(500)
    x[200:] = random(0, 100, 40)
    distinct = random(1, 500, 40)
    assert screened_topk(x[200:], distinct, b, 5).verified.all()
    assert not screened_topk(x, W, b, 5).verified.any()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_codes_are_alike_by_any_number_of_threads(threads: int) -> None:
    x, W, b = random(0, 333, 40), random(1, 1001, 40), random(2, 1001)
    wanted = screened_topk(x, W, b, 9).codes
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = screened_topk(x, W, b, 9).codes
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found.indices, wanted.indices)
    assert torch.equal(found.values, wanted.values)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 70), st.integers(1, 130)),
    scale=st.sampled_from([0.0, 1e-30, 1e-12, 1.0, 1e12]),
    bias_scale=st.sampled_from([0.0, 1.0, 1e6]),
)
def test_products_lie_between_their_bounds(
    seed: int, shape: tuple[int, int, int], scale: float, bias_scale: float
) -> None:
    B, D, F = shape
    x, W, b = random(seed, B, D) * scale, random(seed + 1, F, D), random(seed + 2, F) * bias_scale
    require_between(x, W, b)


def require_between(x: Tensor, W: Tensor, b: Tensor) -> None:
    rows, weights = rounded(x), rounded(W)
    products_BF = (rows.rounded @ weights.rounded.T).view(torch.uint16)
    errors_B = bound_errors(rows, x.shape[1])
    pre_BF = x.double() @ W.double().T + b.double()
    for row, latent in np.ndindex(*pre_BF.shape):
        doubt = errors_B[row] * weights.norms[latent] + rows.norms[row] * weights.errors[latent]
        bits, bias = np.uint16(int(products_BF[row, latent])), np.float32(float(b[latent]))
        lower, upper = bounds(bits, bias, np.float32(doubt))
        assert lower <= pre_BF[row, latent] <= upper


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_rows_round_to_the_nearest_bfloat16(scale: float) -> None:
    x = random(0, 70, 33) * scale
    assert torch.equal(rounded(x).rounded, x.bfloat16())
    halfway = torch.tensor([[1 + 2.0**-8, 1 + 3 * 2.0**-8, -(1 + 2.0**-8), 0.0, -0.0]])
    assert torch.equal(rounded(halfway).rounded, halfway.bfloat16())
    exact = row_norms(x.double() - x.bfloat16().double())
    assert (torch.tensor(rounded(x).errors) >= exact * (1 - 1e-5)).all()


def test_bounds_hold_where_all_errors_add_up() -> None:
    """In bfloat16 these products are 0; what rounding takes from one factor is all of them."""
    signs = torch.tensor([1.0, -1.0]).repeat(32)[None]
    rounded_to_one = torch.where(signs > 0, 1 + 0.4 * 2.0**-7, 1 - 0.4 * 2.0**-8)
    for x, W in ((signs, rounded_to_one), (rounded_to_one, signs)):
        assert not (x.bfloat16() @ W.bfloat16().T).any()
        require_between(x, W, torch.zeros(1))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("part", [0.3, 0.8])
def test_bounds_hold_for_what_the_result_rounds_away(sign: float, part: float) -> None:
    x, W = torch.ones(1, 2), sign * torch.tensor([[1.0, part * 2.0**-7]]).bfloat16().float()
    require_between(x, W, torch.tensor([2.0]))


def test_bounds_hold_for_what_float32_rounds_away() -> None:
    one = torch.ones(1, 1)
    require_between(one, one / 64, torch.tensor([1e6]))
    require_between(torch.tensor([[2.0**24, 1.0, -(2.0**24)]]), torch.ones(1, 3), torch.zeros(1))


def test_equal_latents_go_to_the_lowest_index() -> None:
    x, W = random(0, 20, 16).abs(), random(1, 90, 16)
    W[40] = W[7] = W[81] = 9.0  # the largest for positive rows
    codes, verified = screened_topk(x, W, torch.zeros(90), 2)
    assert verified.all()
    assert torch.equal(codes.indices.sort().values, torch.tensor([[7, 40]]).expand(20, 2))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_rows_that_are_not_finite_fail_verification(bad: float) -> None:
    x, W = random(0, 6, 16), random(1, 90, 16)
    x[2, 3] = bad
    verified = screened_topk(x, W, torch.zeros(90), 2).verified
    assert torch.equal(verified, torch.arange(6) != 2)


@pytest.mark.parametrize("apart", [1.0, 1e-4])
def test_encoding_is_exact_either_way(apart: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of near duplicates few rows are verified, and most take the exact path."""
    monkeypatch.setattr(encode, "encode_plan", always)
    x, W, b = random(0, 600, 33), random(1, 1, 33) + apart * random(2, 450, 33), random(3, 450)
    b, b_dec, k = b * apart, random(4, 33), 6
    tensors = [t.requires_grad_() for t in (x, b_dec, W, b)]
    codes = encode.encode_topk(x, b_dec, W, b, k)
    found = torch.autograd.grad(codes.values.square().sum(), tensors)
    require_exact(Codes(codes.indices, codes.values.detach()), x - b_dec, W, b, k)
    verified = screened_topk((x - b_dec).detach(), W.detach(), b.detach(), k).verified
    assert bool(verified.all()) == (apart == 1.0)
    dense = reference.topk_select(reference.pre_activations(x, b_dec, W, b), k)
    wanted = torch.autograd.grad(dense.values.square().sum(), tensors)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_a_bias_of_minus_infinity_keeps_its_latent_out() -> None:
    x, W, b = random(0, 40, 30), random(1, 600, 30), random(2, 600)
    b[::3] = -torch.inf
    codes, verified = screened_topk(x, W, b, 7)
    assert verified.all() and (codes.indices[codes.values > 0] % 3 != 0).all()
    allowed = b.isfinite().nonzero()[:, 0]
    among = screened_topk(x, W[allowed], b[allowed], 7).codes
    assert torch.equal(allowed[among.indices], codes.indices)


def test_one_huge_bias_leaves_the_others_in_order() -> None:
    x, W, b = random(0, 40, 30), random(1, 600, 30), torch.zeros(600)
    b[5] = 1e18
    codes, verified = screened_topk(x, W, b, 7)
    assert verified.all() and (codes.indices[:, 0] == 5).all()
    require_exact(
        Codes(codes.indices[:, 1:], codes.values[:, 1:]), x, W * (b == 0)[:, None], b * 0, 6
    )


@pytest.mark.parametrize("length", [1, 1199, 2400])
@pytest.mark.parametrize("n_rows", [255, 300])
def test_a_bias_of_another_length_is_refused(n_rows: int, length: int) -> None:
    x, W = random(0, n_rows, 1024), random(1, 1200, 1024)
    with pytest.raises(ValueError, match=rf"b_enc has shape \[{length}\].*1200 latents"):
        # Without the tests' check of shapes, which users do not have.
        unwrap(encode.encode_topk)(x, torch.zeros(1024), W, torch.zeros(length), 5)


@pytest.mark.parametrize("n_rows", [255, 300])
def test_weights_of_another_dtype_are_refused(n_rows: int) -> None:
    x, W = random(0, n_rows, 1024), random(1, 1200, 1024).double()
    with pytest.raises(RuntimeError, match="dtype"):
        encode.encode_topk(x, torch.zeros(1024), W, torch.zeros(1200), 5)
