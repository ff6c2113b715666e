"""AuxK's error by dense products, as on a GPU, against sparse operators in float64."""

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import dead_latents, policy
from sparsteer.kernels.dead_latents import dead_latents_mse


def tensors(B: int, F: int, D: int, device: str) -> list[Tensor]:
    shapes = [(B, D), (D,), (F, D), (F,), (F, D), (B, D)]
    return [torch.randn(*shape, device=device, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows_at_once", [64, 7])
@pytest.mark.slow_except("7-dtype1")
def test_error_and_gradients_are_those_of_sparse_operators(
    dtype: torch.dtype, rows_at_once: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_latents, "pre_activation_rows", lambda *_: rows_at_once)  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]
    B, F, D, k = 20, 50, 12, 6
    # Values that each dtype holds, so that all choose the same latents.
    given = [tensor.to(torch.bfloat16).to(torch.float16) for tensor in tensors(B, F, D, device)]
    dead = torch.tensor([3, 4, 12, 11, 30, 49, 31, 32], device=device)  # in any order

    def outcome(dtype: torch.dtype) -> list[Tensor]:
        x, center, W_enc, b_enc, W_dec, target = (tensor.to(dtype) for tensor in given)
        trained = [leaf.requires_grad_() for leaf in (center, W_enc, b_enc, W_dec)]
        target = target.to(torch.promote_types(dtype, torch.float32))
        error = dead_latents_mse(x, center, W_enc, b_enc, W_dec, dead, k, target)
        assert error.dtype == target.dtype
        gradients = torch.autograd.grad(0.01 * error, trained)
        return [error.detach().double(), *(gradient.double() for gradient in gradients)]

    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}[dtype]
    for ours, exact in zip(outcome(dtype), outcome(torch.float64), strict=True):
        limit = tolerance * float(exact.abs().max())
        torch.testing.assert_close(ours, exact, rtol=0, atol=limit)
    silent = torch.ones(F, dtype=torch.bool, device=device)
    silent[dead] = False
    assert all((gradient[silent] == 0).all() for gradient in outcome(dtype)[2:])


def test_few_of_many_latents_take_sparse_operators(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, center, W_enc, b_enc, W_dec, target = (t.float() for t in tensors(9, 300, 5, device))
    arguments = x, center, W_enc, b_enc, W_dec, torch.arange(300, device=device), 2, target
    sparse = dead_latents_mse(*arguments)
    monkeypatch.setattr(policy, "_DENSE_BELOW_LATENTS_PER_SLOT_ON_GPU", 1 << 20)
    torch.testing.assert_close(dead_latents_mse(*arguments), sparse, rtol=1e-5, atol=0)
