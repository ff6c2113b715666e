"""Nested decode: each prefix against a dense decode of its latents, values and gradients."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsteer.kernels import nested, policy, reference
from sparsteer.kernels.codes import Codes
from sparsteer.kernels.nested import nested_mse
from sparsteer.kernels.topk import topk_select


def dense_loss(
    acts_BF: Tensor, W_dec: Tensor, b_dec: Tensor, x: Tensor, prefixes: tuple[int, ...]
) -> Tensor:
    errors = [acts_BF[:, :p] @ W_dec[:p] + b_dec - x for p in prefixes]
    return torch.stack(errors).square().mean()


@pytest.fixture(params=["ragged", "by segments", "by segments on a GPU"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All ways meet every input."""

    least = 0 if request.param == "ragged" else 1 << 40
    for name in ("_DENSE_BELOW_LATENTS_PER_SLOT", "_DENSE_BELOW_LATENTS_PER_SLOT_IN_ONEDNN"):
        monkeypatch.setattr(policy, name, least)
    on_gpu = request.param.endswith("GPU")
    monkeypatch.setattr(nested, "uses_triton", lambda _: on_gpu)  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType] - of a test
    return request.param


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    inner=st.sets(st.integers(1, 29), max_size=4),
    n_rows=st.integers(0, 9),
    k=st.integers(1, 30),
    seed=st.integers(0, 1000),
)
def test_equals_the_dense_decode_of_each_prefix(
    inner: set[int], n_rows: int, k: int, seed: int
) -> None:
    prefixes = (*sorted(inner), 30)
    generator = torch.Generator().manual_seed(seed)
    pre = torch.randn(n_rows, 30, dtype=torch.float64, generator=generator)
    codes = topk_select(pre, k)
    W_dec, b_dec, x = (torch.randn(*n).double() for n in ((30, 7), (7,), (n_rows, 7)))
    leaves = [t.requires_grad_() for t in (codes.values, W_dec, b_dec)]
    loss, x_hat = nested_mse(codes, W_dec, b_dec, x, prefixes)
    torch.testing.assert_close(x_hat, reference.decode(codes, W_dec, b_dec).detach())
    ours = torch.autograd.grad(3 * loss, leaves)
    if not n_rows:
        assert loss == 0 and all((gradient == 0).all() for gradient in ours)
        return
    want = dense_loss(codes.dense(30), W_dec, b_dec, x, prefixes)
    torch.testing.assert_close(loss, want)
    theirs = torch.autograd.grad(3 * want, leaves)
    used = codes.values > 0  # the gradient of an unused slot is dropped by every encoder
    torch.testing.assert_close(ours[0] * used, theirs[0] * used)
    torch.testing.assert_close(ours[1:], theirs[1:])


def test_a_slot_of_value_zero_gets_its_gradient() -> None:
    """jumprelu's latents just below their threshold."""
    codes = Codes(torch.tensor([[4, 2, 7]]), torch.tensor([[1.0, 0.0, 0.0]]).requires_grad_())
    W_dec, x = torch.randn(9, 3), torch.randn(1, 3)
    prefixes = (3, 5, 9)
    loss, _ = nested_mse(codes, W_dec, torch.zeros(3), x, prefixes)
    dense = dense_loss(codes.dense(9), W_dec, torch.zeros(3), x, prefixes)
    ours, theirs = (torch.autograd.grad(out, codes.values)[0] for out in (loss, dense))
    torch.testing.assert_close(ours, theirs)
    assert (ours != 0).all()


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("prefixes", [(), (3,), (3, 3, 9), (0, 9), (9, 3)])
def test_prefixes_must_rise_to_all_latents(prefixes: tuple[int, ...]) -> None:
    codes = topk_select(torch.randn(2, 9), 3)
    with pytest.raises(ValueError, match="must rise to the 9 latents"):
        nested_mse(codes, torch.randn(9, 2), torch.zeros(2), torch.randn(2, 2), prefixes)


def test_float16_and_rows_that_want_a_gradient_are_refused() -> None:
    codes = Codes(torch.zeros(4, 1, dtype=torch.int64), torch.ones(4, 1))
    W_dec, b_dec, x = torch.randn(9, 3), torch.zeros(3), torch.randn(4, 3)
    in_float16 = codes._replace(values=codes.values.half()), W_dec.half(), b_dec.half(), x.half()
    with pytest.raises(ValueError, match="W_dec is float16"):
        nested_mse(*in_float16, (2, 9))
    with torch.no_grad():
        assert nested_mse(*in_float16, (2, 9)).loss.isfinite()
    with pytest.raises(ValueError, match="x wants a gradient"):
        nested_mse(codes, W_dec, b_dec, x.requires_grad_(), (2, 9))
