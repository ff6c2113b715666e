"""Sparse decode: x_hat = codes @ W_dec + b_dec, reading only the active rows of W_dec."""

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .backward import dense_block, gathered_dots, prefers_dense, row_blocks, weight_gradient
from .codes import Codes


def decode(
    codes: Codes, W_dec: Float[Tensor, "F D"], b_dec: Float[Tensor, "D"]
) -> Float[Tensor, "*B D"]:
    """Sum each row's active decoder rows, weighted by its values, and add b_dec.

    Args:
        codes: indices and values [..., M]; unused slots add nothing.
        W_dec: [F, D] decoder rows.
        b_dec: [D] decoder bias.

    Returns:
        [..., D] reconstructions, differentiable with respect to the values, W_dec and b_dec; no
        [B, F] tensor is built, forward or backward.

    Raises:
        ValueError: the biases' or the weights' widths differ.
    """
    if b_dec.shape[0] != W_dec.shape[1]:
        raise ValueError(f"b_dec has width {b_dec.shape[0]}, but W_dec has {W_dec.shape[1]}")
    leading, n_slots = codes.indices.shape[:-1], codes.indices.shape[-1]
    slots = codes.indices.reshape(-1, n_slots), codes.values.reshape(-1, n_slots)
    x_hat_BD = cast(Tensor, _SparseDecode.apply(*slots, W_dec))  # pyright: ignore[reportUnknownMemberType] - autograd.Function is untyped
    return x_hat_BD.view(*leading, W_dec.shape[1]) + b_dec


def weighted_rows(
    indices: Int[Tensor, "B M"], values: Float[Tensor, "B M"], weights: Float[Tensor, "F D"]
) -> Float[Tensor, "B D"]:
    """out[b] = sum over m of values[b, m] * weights[indices[b, m]], without a gradient."""
    if prefers_dense(len(weights), indices.shape[-1]):
        out_BD = values.new_empty(len(values), weights.shape[-1])
        for block in row_blocks(len(values)):
            dense_BF = dense_block(indices[block], values[block], len(weights))
            torch.mm(dense_BF, weights, out=out_BD[block])
        return out_BD
    return torch.nn.functional.embedding_bag(
        indices, weights, per_sample_weights=values, mode="sum"
    )


class _SparseDecode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, indices_BM: Tensor, values_BM: Tensor, W_dec_FD: Tensor) -> Tensor:
        ctx.save_for_backward(indices_BM, values_BM, W_dec_FD)
        return weighted_rows(indices_BM, values_BM, W_dec_FD)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator drops names
        ctx: Any, grad_BD: Tensor
    ) -> tuple[None, Tensor | None, Tensor | None]:
        indices_BM, values_BM, W_dec_FD = ctx.saved_tensors
        grad_values_BM = grad_W_FD = None
        if ctx.needs_input_grad[1]:
            grad_values_BM = gathered_dots(indices_BM, grad_BD, W_dec_FD)
        if ctx.needs_input_grad[2]:
            grad_W_FD = weight_gradient(indices_BM, values_BM, grad_BD, len(W_dec_FD))
        return None, grad_values_BM, grad_W_FD
