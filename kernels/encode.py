"""Sparse encode: pre = (x - b_dec) @ W_enc^T + b_enc, then a selection, a block of rows at a time.

The product is taken for a block of rows at a time into one buffer that stays in the cache, and the
selection reads it there; on a GPU, which has no such cache, the buffer holds up to 2^27
pre-activations, so that the product fills the chip: there [B, F] is whole for a usual batch. In low
precision on a GPU, top-k is fused with the product instead (`accelerators/fused_encoder.py`), and
on processors that multiply bfloat16 quickly, a product in bfloat16 finds the candidates
(`accelerators/screening.py`). Both verify each row; rows that fail are encoded exactly: on a CPU by
the path above, on a GPU by kernels that find them there (`accelerators/unverified_rows.py`), so
that the host waits for nothing. `policy.encode_plan` chooses.

Backward, with d = gradient of a kept value (0 in unused slots):
    dW_enc[f] = sum of d * (x_b - b_dec),  db_enc[f] = sum of d,  db_dec = -db_enc @ W_enc,
    dx_b = sum over the row's slots of d * W_enc[f].
b_dec's gradient through the encoder is one product with a vector, never [B, D].
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from .accelerators.fused_encoder import fused_topk
from .accelerators.onednn import Affine
from .accelerators.screening import screened_topk
from .accelerators.unverified_rows import encode_unverified_
from .batch_topk import BatchTop
from .capacity import SlotCapacity
from .codes import Codes, join_codes
from .decode import weighted_rows
from .numerics import row_blocks, row_norms
from .policy import backend_of, encode_plan, pre_activation_rows, product_plan
from .process_group import ProcessGroup
from .sparse_products import encoder_gradients, gradient_dtype, latent_sums
from .top_afa import top_afa_select
from .topk import topk_select
from .topk_keys import require_k

Selection = Callable[[Tensor, Tensor], Codes]
"""From a block's pre-activations [b, F] and centered rows [b, D] to the block's codes."""


def encode_topk(
    x: Float[Tensor, "B D"],
    b_dec: Float[Tensor, "D"],
    W_enc: Float[Tensor, "F D"],
    b_enc: Float[Tensor, "F"],
    k: int,
) -> Codes:
    """Encode rows and keep the k largest positive pre-activations of each.

    Args:
        x: [B, D] rows.
        b_dec: [D] subtracted from the rows first.
        W_enc: [F, D] encoder, a latent a row.
        b_enc: [F] encoder bias.
        k: latents kept of each row, 1 to F.

    Returns:
        Codes [B, k] as of `topk_select`; the values are differentiable with respect to x, b_dec,
        W_enc and b_enc.

    Raises:
        ValueError: k is not between 1 and F, or widths differ.
    """

    _require_widths(x, b_dec, W_enc, b_enc)
    values, indices = _encode_topk_op(x, b_dec, W_enc, b_enc, k)
    return Codes(indices, values)


def encode_top_afa(
    x: Float[Tensor, "B D"],
    b_dec: Float[Tensor, "D"],
    W_enc: Float[Tensor, "F D"],
    b_enc: Float[Tensor, "F"],
    decoder_norms: Float[Tensor, "F"],
    max_active: int | None = None,
    target_scale: float | Float[Tensor, ""] = 1.0,
    capacity: SlotCapacity | None = None,
) -> Codes:
    """Encode rows and keep of each the latents whose joint norm is nearest a multiple of
    ||x - b_dec||.

    Args:
        x, b_dec, W_enc, b_enc: as for `encode_topk`.
        decoder_norms: [F] norms of the decoder rows.
        max_active: width of the codes; the largest count of the batch where it is None.
        target_scale: the multiple, a number or a scalar on the device of the rows; 1 as published
            (arXiv 2503.24277).
        capacity: as for `top_afa_select`.

    Returns:
        Codes [B, M] with counts, as of `top_afa_select`; differentiable as `encode_topk`. The
        choice of how many latents to keep carries no gradient.

    Raises:
        ValueError: a row keeps more than max_active latents, or widths differ.
    """

    def select(pre_BF: Tensor, centered_BD: Tensor) -> Codes:
        norms_B = row_norms(centered_BD)
        # Of a scalar on a device nobody asks whether it is 1.
        as_it_is = not isinstance(target_scale, Tensor) and target_scale == 1
        target_B = norms_B if as_it_is else target_scale * norms_B
        return top_afa_select(pre_BF, decoder_norms, target_B, capacity=capacity)

    def choose() -> Codes:
        return _select_in_blocks(x, b_dec, W_enc, b_enc, select)

    codes = encode_chosen(x, b_dec, W_enc, b_enc, choose)
    return codes if max_active is None else join_codes([codes], x, max_active)


def encode_batch_topk(
    x: Float[Tensor, "B D"],
    b_dec: Float[Tensor, "D"],
    W_enc: Float[Tensor, "F D"],
    b_enc: Float[Tensor, "F"],
    k: int,
    group: ProcessGroup | None = None,
    capacity: SlotCapacity | None = None,
) -> Codes:
    """Encode rows and keep the B * k largest positive pre-activations of the batch.

    Args:
        x, b_dec, W_enc, b_enc: as for `encode_topk`.
        k: latents kept of a row on average, 1 to F.
        group: processes that hold the other rows of the batch, equally many each; the choice is
            among the rows of all ranks, and every rank must call this.
        capacity: as for `BatchTop`.

    Returns:
        Codes [B, M] with counts, as of `batch_topk_select`; differentiable as `encode_topk`.

    Raises:
        ValueError: k is not between 1 and F, or widths differ.
    """
    require_k(k, len(W_enc))

    def choose() -> Codes:
        n_rows = len(x) * (1 if group is None else group.size)
        top = BatchTop(n_rows * k, x, capacity, n_rows)
        for pre_BF, _ in pre_activation_blocks(x, b_dec, W_enc, b_enc):
            top.add(pre_BF)
        return top.codes(group)

    return encode_chosen(x, b_dec, W_enc, b_enc, choose)


def encode_chosen(
    x: Float[Tensor, "B D"],
    b_dec: Float[Tensor, "D"],
    W_enc: Float[Tensor, "F D"],
    b_enc: Float[Tensor, "F"],
    choose: Callable[[], Codes],
) -> Codes:
    """The codes that `choose` makes of the pre-activations; positive values are differentiable with
    respect to x, b_dec, W_enc and b_enc, the choice is not."""
    _require_widths(x, b_dec, W_enc, b_enc)
    slots = _SparseEncode.apply(x, b_dec, W_enc, b_enc, choose)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - autograd.Function is untyped
    return Codes(*cast(tuple[Tensor, Tensor, Tensor], slots))


def _require_widths(x: Tensor, b_dec: Tensor, W_enc: Tensor, b_enc: Tensor) -> None:
    if not x.shape[-1] == W_enc.shape[1] == b_dec.shape[0]:
        raise ValueError(
            f"x has width {x.shape[-1]} and b_dec {b_dec.shape[0]}, but W_enc has {W_enc.shape[1]}"
        )
    if b_enc.shape != W_enc.shape[:1]:
        raise ValueError(
            f"b_enc has shape {list(b_enc.shape)}, but W_enc has {W_enc.shape[0]} latents"
        )


@torch.library.custom_op("sparsteer::encode_topk", mutates_args=())
def _encode_topk_op(
    x: Tensor, b_dec: Tensor, W_enc: Tensor, b_enc: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Values and indices of the codes."""

    def select(pre_BF: Tensor, _: Tensor) -> Codes:
        return topk_select(pre_BF, k)

    n_rows, width = x.shape
    backend = backend_of(x)
    plan = encode_plan(n_rows, width, len(W_enc), k, backend)
    # Weights of another dtype are PyTorch's to refuse.
    if plan.path == "blocks" or not x.dtype == W_enc.dtype == b_enc.dtype:
        codes = _select_in_blocks(x, b_dec, W_enc, b_enc, select)
        return codes.values, codes.indices
    centered = x - b_dec
    if plan.path == "fused":
        codes, verified_B = fused_topk(centered, W_enc, b_enc, k)
        product = product_plan(n_rows, W_enc.numel(), backend)
        rows_at_once = pre_activation_rows(len(W_enc), product, backend)
        encode_unverified_(codes, verified_B, centered, W_enc, b_enc, rows_at_once)
        return codes.values, codes.indices
    codes, verified_B = screened_topk(centered, W_enc, b_enc, k)
    rows = verified_B.logical_not().nonzero()[:, 0]
    if len(rows):
        exact = _select_in_blocks(x[rows], b_dec, W_enc, b_enc, select)
        codes.indices[rows], codes.values[rows] = exact.indices, exact.values
    return codes.values, codes.indices


@_encode_topk_op.register_fake  # pyright: ignore[reportUnknownMemberType] - untyped
def _(x: Tensor, b_dec: Tensor, W_enc: Tensor, b_enc: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(len(x), k), x.new_empty(len(x), k, dtype=torch.int64)


@torch.library.custom_op("sparsteer::encode_backward", mutates_args=())
def _encode_backward_op(
    grad_values: Tensor,
    x: Tensor,
    b_dec: Tensor,
    W_enc: Tensor,
    indices: Tensor,
    values: Tensor,
    for_x: bool,
    for_W: bool,
    for_biases: bool,
) -> list[Tensor]:
    """The gradients asked for: of x; of W_enc; of b_enc and b_dec."""
    grad_pre_BM = grad_values.masked_fill(values <= 0, 0)
    gradients: list[Tensor] = []
    if for_x:
        gradients.append(weighted_rows(indices, grad_pre_BM, W_enc))
    if for_W:
        grad_W, grad_b_enc = encoder_gradients(indices, grad_pre_BM, x - b_dec, len(W_enc))
        gradients.append(grad_W)
    else:
        grad_b_enc = latent_sums(indices, grad_pre_BM, len(W_enc)) if for_biases else None
    if for_biases and grad_b_enc is not None:
        gradients += [grad_b_enc, -(grad_b_enc.to(W_enc.dtype) @ W_enc)]
    return gradients


@_encode_backward_op.register_fake  # pyright: ignore[reportUnknownMemberType] - untyped
def _(
    grad_values: Tensor,
    x: Tensor,
    b_dec: Tensor,
    W_enc: Tensor,
    indices: Tensor,
    values: Tensor,
    for_x: bool,
    for_W: bool,
    for_biases: bool,
) -> list[Tensor]:
    wide = gradient_dtype(x)
    weight, bias = (x.new_empty(shape, dtype=wide) for shape in (W_enc.shape, W_enc.shape[:1]))
    gradients = [x.new_empty(x.shape)] * for_x + [weight] * for_W
    return gradients + [bias, x.new_empty(b_dec.shape)] * for_biases


def _encode_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, b_dec, W_enc = inputs[:3]
    values, indices = output
    ctx.save_for_backward(x, b_dec, W_enc, indices, values)


def _encode_backward(
    ctx: Any, grad_values: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad_values is None:
        grad_values = torch.zeros_like(ctx.saved_tensors[-1])
    for_x, for_b_dec, for_W, for_b_enc, _ = ctx.needs_input_grad
    for_biases = for_b_dec or for_b_enc
    gradients = _encode_backward_op(grad_values, *ctx.saved_tensors, for_x, for_W, for_biases)
    grad_x = gradients.pop(0) if for_x else None
    grad_W = gradients.pop(0) if for_W else None
    grad_b_enc, grad_b_dec = gradients if for_biases else (None, None)
    return grad_x, grad_b_dec, grad_W, grad_b_enc, None


_encode_topk_op.register_autograd(_encode_backward, setup_context=_encode_context)  # pyright: ignore[reportUnknownMemberType] - untyped


class _SparseEncode(torch.autograd.Function):
    """For selections whose width depends on the data, which custom operators do not describe."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BD: Tensor,
        b_dec_D: Tensor,
        W_enc_FD: Tensor,
        b_enc_F: Tensor,
        choose: Callable[[], Codes],
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        codes = choose()
        _encode_context(ctx, (x_BD, b_dec_D, W_enc_FD), (codes.values, codes.indices))
        ctx.mark_non_differentiable(codes.indices, codes.counts)
        return codes.indices, codes.values, codes.counts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator drops names
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        return _encode_backward(ctx, grads[1], None)


def pre_activation_blocks(
    x_BD: Float[Tensor, "B D"],
    b_dec_D: Float[Tensor, "D"],
    W_enc_FD: Float[Tensor, "F D"],
    b_enc_F: Float[Tensor, "F"],
) -> Iterator[tuple[Float[Tensor, "b F"], Float[Tensor, "b D"]]]:
    """Pre-activations and centered rows, a block of rows at a time; each overwrites the last."""
    affine = Affine(W_enc_FD, b_enc_F, len(x_BD))
    rows_at_once = pre_activation_rows(len(W_enc_FD), affine.plan, backend_of(x_BD))
    for block in row_blocks(len(x_BD), rows_at_once):
        centered_BD = x_BD[block] - b_dec_D
        yield affine(centered_BD), centered_BD


def _select_in_blocks(
    x_BD: Tensor, b_dec_D: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, select: Selection
) -> Codes:
    blocks = pre_activation_blocks(x_BD, b_dec_D, W_enc_FD, b_enc_F)
    parts = [select(pre_BF, centered_BD) for pre_BF, centered_BD in blocks]
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return select(x_BD.new_empty(0, len(W_enc_FD)), x_BD)
    if parts[0].counts is not None:
        return join_codes(parts, x_BD)
    return Codes(
        torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts])
    )
