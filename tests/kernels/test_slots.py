"""Codes whose rows use few of their slots: the used ones alone decide results and the way taken."""

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import decode, gather_dot, sparse_products
from sparsteer.kernels.autoencode import autoencoder_mse
from sparsteer.kernels.codes import Codes
from sparsteer.kernels.gather_dot import gathered_dots
from sparsteer.kernels.policy import backend_of, sparse_plan
from sparsteer.kernels.slots import UsedSlots, used_slots
from sparsteer.kernels.sparse_products import weight_gradient

N_LATENTS, WIDTH = 1_301, 7


def ragged(n_rows: int, n_slots: int, mean: int, seed: int = 0) -> Codes:
    """Rows of about `mean` used slots, the first of all, the last of none."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 2 * mean, (n_rows,), generator=generator)
    counts[0], counts[-1] = n_slots, 0
    used = torch.arange(n_slots) < counts[:, None]
    indices = torch.rand(n_rows, N_LATENTS, generator=generator).argsort(1)[:, :n_slots] * used
    values = (torch.rand(n_rows, n_slots, generator=generator, dtype=torch.float64) + 0.1) * used
    return Codes(indices, values, counts)


@pytest.fixture
def codes() -> Codes:
    return ragged(n_rows=37, n_slots=400, mean=9)


def listed(values: Tensor) -> UsedSlots | None:
    return used_slots(values > 0, backend_of(values))


def forbid_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Tensor:
        raise AssertionError("a dense block was built for rows that are sparse on average")

    monkeypatch.setattr(decode, "dense_block", refuse)
    monkeypatch.setattr(sparse_products, "add_product_", refuse)
    monkeypatch.setattr(gather_dot, "Affine", refuse)


def test_one_wide_row_makes_no_batch_dense(codes: Codes, monkeypatch: pytest.MonkeyPatch) -> None:
    by_widest_row = sparse_plan(N_LATENTS, codes.indices.shape[1], backend_of(codes.values))
    assert by_widest_row.path == "dense"
    forbid_dense(monkeypatch)
    torch.manual_seed(1)  # pyright: ignore[reportUnknownMemberType] - untyped
    rows = torch.randn(len(codes.indices), WIDTH, dtype=torch.float64)
    weights = torch.randn(N_LATENTS, WIDTH, dtype=torch.float64)
    dense = codes.dense(N_LATENTS)

    decoded = decode.weighted_rows(codes.indices, codes.values, weights)
    torch.testing.assert_close(decoded, dense @ weights)

    gradient = weight_gradient(codes.indices, codes.values, rows, N_LATENTS)
    torch.testing.assert_close(gradient, dense.T @ rows)


def test_dots_are_taken_of_the_listed_slots(codes: Codes, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_dense(monkeypatch)
    torch.manual_seed(2)  # pyright: ignore[reportUnknownMemberType] - untyped
    rows = torch.randn(len(codes.indices), WIDTH, dtype=torch.float64)
    weights = torch.randn(N_LATENTS, WIDTH, dtype=torch.float64)
    used = codes.values > 0
    dots = gathered_dots(codes.indices, rows, weights, listed(codes.values))
    expected = (rows @ weights.T).gather(1, codes.indices)
    torch.testing.assert_close(dots, expected * used)


def test_the_loss_has_the_gradients_of_dense_algebra(
    codes: Codes, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_dense(monkeypatch)
    torch.manual_seed(3)  # pyright: ignore[reportUnknownMemberType] - untyped
    x = torch.randn(len(codes.indices), WIDTH, dtype=torch.float64)
    shapes = (WIDTH,), (N_LATENTS, WIDTH), (N_LATENTS,), (N_LATENTS, WIDTH)
    b_dec, W_enc, b_enc, W_dec = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    used = codes.dense(N_LATENTS) > 0
    pre = (
        (x - b_dec) @ W_enc.T + b_enc
    ).square() * used  # of either sign, positive where it counts
    values = pre.detach().gather(1, codes.indices) * (codes.values > 0)

    # The gradient of the values reaches the encoder as of pre, so pre itself must be the value.
    linear = ((x - b_dec) @ W_enc.T + b_enc) * used
    linear = linear + (pre - linear).detach()
    dense_loss = (linear @ W_dec + b_dec - x).square().mean()
    weights = (b_dec, W_enc, b_enc, W_dec)
    expected = torch.autograd.grad(dense_loss, weights)

    loss = autoencoder_mse(codes._replace(values=values), x, *weights).loss
    torch.testing.assert_close(loss, dense_loss)
    torch.testing.assert_close(torch.autograd.grad(loss, weights), expected)


def test_full_codes_are_not_listed() -> None:
    assert listed(torch.ones(5, 8)) is None


@pytest.mark.parametrize(("n_rows", "n_slots"), [(0, 4), (3, 5)])
def test_nothing_used_is_nothing(n_rows: int, n_slots: int) -> None:
    indices = torch.zeros(n_rows, n_slots, dtype=torch.int64)
    values, weights = torch.zeros(n_rows, n_slots), torch.randn(N_LATENTS, WIDTH)
    rows = torch.randn(n_rows, WIDTH)
    assert not decode.weighted_rows(indices, values, weights).any()
    assert not weight_gradient(indices, values, rows, N_LATENTS).any()
    assert not gathered_dots(indices, rows, weights, listed(values)).any()
