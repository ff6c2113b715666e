"""How well the dead latents of an autoencoder predict rows: AuxK's error and its gradients.

Each row keeps its k largest pre-activations of the dead latents alone, and their decoder rows are
to sum to the row's target. On a GPU all products are dense, which `sparse_plan` takes to be faster
unless there are very many dead latents for each that is kept: with a the kept values [B, N],
x_hat = a @ W_dec[dead] and r the gradient of x_hat,
    dW_dec[dead] = a^T @ r,  da = r @ W_dec[dead]^T where a is kept,
    dW_enc[dead] = da^T @ (x - center),  db_enc[dead] = sum of da,  dcenter = -db_enc @ W_enc[dead].
`dead_rows` gathers the weights' rows and writes the gradients'.
Elsewhere sparse operators take the selected weights.

A list may be padded with other latents, so that its length, and with it every shape, stays the same
while the number of dead latents changes. Their bias is -inf, so that no row keeps one.
"""

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .dead_rows import DeadRows, launch_gather, launch_put_back
from .decode import decode
from .dispatch import uses_triton
from .encode import encode_topk
from .numerics import row_blocks, wide_product
from .policy import backend_of, pre_activation_rows, product_plan, sparse_plan
from .topk import topk_select


def dead_latents_mse(
    x: Float[Tensor, "B D"],
    center: Float[Tensor, "D"],
    W_enc: Float[Tensor, "F D"],
    b_enc: Float[Tensor, "F"],
    W_dec: Float[Tensor, "F D"],
    dead: Int[Tensor, "N"],
    k: int,
    target: Float[Tensor, "B D"],
    n_dead: Int[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Mean over rows and dimensions of (x_hat - target)^2, with x_hat from dead latents alone.

    Args:
        x: [B, D] rows.
        center: [D] what the encoder subtracts from them.
        W_enc, b_enc, W_dec: weights of all latents.
        dead: [N] int64 the latents that take part, none twice, at least one.
        k: of these the largest that a row keeps, 1 to N.
        target: [B, D] in at least float32, without a gradient.
        n_dead: on the same device, how many of `dead`, from the first on, take part; None for all.

    Returns:
        The error in the target's dtype, differentiable with respect to center, W_enc, b_enc and
        W_dec; the choice of latents carries no gradient.
    """
    if uses_triton(x) and sparse_plan(len(dead), k, backend_of(x)).path == "dense":
        error = _DenseMSE.apply(x, center, W_enc, b_enc, W_dec, dead, k, target, n_dead)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - autograd.Function is untyped
        return cast(Tensor, error)
    codes = encode_topk(x, center, W_enc[dead], _never_from(b_enc[dead], n_dead), k)
    x_hat_BD = decode(codes, W_dec[dead], W_dec.new_zeros(W_dec.shape[1]))
    return (x_hat_BD.to(target.dtype) - target).square().mean()


class _DenseMSE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BD: Tensor,
        center_D: Tensor,
        W_enc_FD: Tensor,
        b_enc_F: Tensor,
        W_dec_FD: Tensor,
        dead_N: Tensor,
        k: int,
        target_BD: Tensor,
        n_dead: Tensor | None,
    ) -> Tensor:
        rows, places_F = launch_gather(DeadRows(W_enc_FD, b_enc_F, W_dec_FD), dead_N)
        W_enc_ND, b_enc_N, W_dec_ND = rows
        b_enc_N = _never_from(b_enc_N, n_dead)
        centered_BD = x_BD - center_D
        backend = backend_of(x_BD)
        product = product_plan(len(x_BD), W_enc_ND.numel(), backend)
        rows_at_once = pre_activation_rows(len(dead_N), product, backend)
        parts = [
            topk_select(torch.addmm(b_enc_N, centered_BD[rows], W_enc_ND.T), k)
            for rows in row_blocks(len(x_BD), rows_at_once)
        ]
        dense = [codes.dense(len(dead_N)) for codes in parts]
        acts_BN = dense[0] if len(dense) == 1 else torch.cat(dense)
        error_BD = acts_BN @ W_dec_ND - target_BD
        ctx.save_for_backward(centered_BD, acts_BN, W_enc_ND, W_dec_ND, places_F, error_BD)
        return error_BD.square().mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator drops names
        ctx: Any, grad_loss: Tensor
    ) -> tuple[Tensor | None, ...]:
        centered_BD, acts_BN, W_enc_ND, W_dec_ND, places_F, error_BD = ctx.saved_tensors
        scale = grad_loss * (2 / max(1, error_BD.numel()))
        small = acts_BN.dtype == torch.float16  # whose range the small factor would leave
        grad_BD = torch.empty_like(error_BD, dtype=acts_BN.dtype)  # rounded as it is written
        if small:
            grad_BD.copy_(error_BD)
        else:
            torch.mul(error_BD, scale, out=grad_BD)
        grad_W_dec = wide_product(acts_BN.T, grad_BD)
        grad_acts_BN = torch.ops.aten.threshold_backward(grad_BD @ W_dec_ND.T, acts_BN, 0)
        grad_W_enc = wide_product(grad_acts_BN.T, centered_BD)
        grad_b_enc = grad_acts_BN.sum(0, dtype=grad_W_enc.dtype)
        if small:
            for gradient in (grad_W_enc, grad_b_enc, grad_W_dec):
                gradient.mul_(scale)
        rounded_N = grad_b_enc.to(W_enc_ND.dtype)
        grad_center = torch.addmv(W_enc_ND[0], W_enc_ND.T, rounded_N, beta=0, alpha=-1)
        rows = DeadRows(grad_W_enc, grad_b_enc, grad_W_dec)
        return None, grad_center, *launch_put_back(rows, places_F), None, None, None, None


def _never_from(bias_N: Tensor, n_dead: Tensor | None) -> Tensor:
    """The bias with -inf from place `n_dead` on: such latents are kept in no row."""
    if n_dead is None:
        return bias_N
    places_N = torch.arange(len(bias_N), device=bias_N.device)
    return bias_N.masked_fill(places_N >= n_dead, -torch.inf)
