"""JumpReLU selection: codes = the pre-activations above their latent's own threshold.

    values = pre * H(pre - threshold),  l0_gate = H(pre - threshold),  with Heaviside's step H.
Neither moves smoothly with the threshold, so its gradient goes straight through the jump, by a
rectangle of width `bandwidth` around it (arXiv 2407.14435):
    dvalues/dthreshold = -threshold / bandwidth,  dl0_gate/dthreshold = -1 / bandwidth
where |pre - threshold| < bandwidth / 2, and 0 elsewhere. Half of these latents lie below their
threshold: in training they get slots too, of value 0, so that a decoder gives their gradient.
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from .capacity import SlotCapacity
from .codes import Codes, COOEntries, pack_entries
from .dispatch import uses_triton
from .encode import encode_chosen, pre_activation_blocks
from .jumprelu_kernels import joined, launch_jumprelu
from .sparse_products import latent_sums


def _entries_above(pre: Float[Tensor, "B F"], low: Float[Tensor, "F"]) -> COOEntries:
    """What exceeds its column's bound, NaN included; waits for a GPU."""
    rows, columns = (pre <= low).logical_not_().nonzero().unbind(1)
    return COOEntries(rows, columns, pre[rows, columns])


def _pack(entries: COOEntries, threshold: Float[Tensor, "F"], n_rows: int, beside: bool) -> Codes:
    """Slots of the kept entries and, if `beside`, of the others behind them, with their
    pre-activations as values, and minus infinity in slots that hold nothing."""
    rows, columns, pre = entries
    kept = (pre <= threshold[columns]).logical_not_()
    codes = _padded(pack_entries(rows[kept], columns[kept], pre[kept], n_rows))
    if not beside:
        return codes
    others = _padded(pack_entries(rows[~kept], columns[~kept], pre[~kept], n_rows))
    return Codes(
        torch.cat([codes.indices, others.indices], 1),
        torch.cat([codes.values, others.values], 1),
        codes.counts,
    )


def _padded(codes: Codes) -> Codes:
    assert codes.counts is not None  # pack_entries gives them
    slots = torch.arange(codes.values.shape[1], device=codes.values.device)
    return codes._replace(
        values=codes.values.masked_fill(slots >= codes.counts[:, None], -torch.inf)
    )


class _Jump(torch.autograd.Function):
    """Values and gates of slots with the pre-activations and thresholds given."""

    @staticmethod
    def forward(
        ctx: Any, pre_BM: Tensor, threshold_BM: Tensor, bandwidth: float
    ) -> tuple[Tensor, Tensor]:
        kept_BM = (pre_BM <= threshold_BM).logical_not_()
        ctx.save_for_backward(pre_BM, threshold_BM, kept_BM)
        ctx.bandwidth = bandwidth
        return pre_BM.masked_fill(~kept_BM, 0), kept_BM.to(pre_BM.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator drops names
        ctx: Any, grad_values: Tensor, grad_gate: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        pre_BM, threshold_BM, kept_BM = ctx.saved_tensors
        near_BM = (pre_BM - threshold_BM).abs() < ctx.bandwidth / 2
        jump_BM = threshold_BM * grad_values + grad_gate
        grad_threshold_BM = (jump_BM / -ctx.bandwidth).masked_fill(~near_BM, 0)
        return grad_values.masked_fill(~kept_BM, 0), grad_threshold_BM, None


class _ThresholdsOf(torch.autograd.Function):
    """thresholds[indices], whose gradient is summed in a fixed order; indexing's own is not."""

    @staticmethod
    def forward(ctx: Any, threshold_F: Tensor, indices_BM: Tensor) -> Tensor:
        ctx.save_for_backward(indices_BM)
        ctx.n_latents = len(threshold_F)
        return threshold_F[indices_BM]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BM: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator drops names
        (indices_BM,) = ctx.saved_tensors
        return latent_sums(indices_BM, grad_BM, ctx.n_latents), None


def _jump(slots: Codes, threshold: Float[Tensor, "F"], bandwidth: float) -> Codes:
    """Codes of slots that hold pre-activations, with the gradient of the threshold."""
    if not bandwidth:
        return slots._replace(values=slots.values.masked_fill(slots.values == -torch.inf, 0))
    thresholds_BM = cast(Tensor, _ThresholdsOf.apply(threshold, slots.indices))  # pyright: ignore[reportUnknownMemberType] - as above
    jumped = _Jump.apply(slots.values, thresholds_BM, bandwidth)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - autograd.Function is untyped
    values, l0_gate = cast(tuple[Tensor, Tensor], jumped)
    return Codes(slots.indices, values, slots.counts, l0_gate)


def _lower_bound(threshold: Tensor, bandwidth: float) -> Tensor:
    if bandwidth < 0:
        raise ValueError(f"bandwidth is {bandwidth}, but must not be negative")
    return (threshold - bandwidth / 2).detach().contiguous()


def jumprelu_select(
    pre: Float[Tensor, "B F"], threshold: Float[Tensor, "F"], bandwidth: float = 0.0
) -> Codes:
    """Keep the pre-activations above their latent's threshold.

    Args:
        pre: [B, F] pre-activations.
        threshold: [F], not negative.
        bandwidth: width of the rectangle through which the threshold gets its gradient, in the
            units of pre; 0 gives it none.

    Returns:
        Codes [B, M] with counts, used slots in rising order of their indices. With a bandwidth also
        `l0_gate`, and slots of value 0 for latents that lie less than half of it below their
        threshold. Values are differentiable with respect to pre and, with a bandwidth, values and
        `l0_gate` with respect to the threshold. NaN is kept.

    Raises:
        ValueError: the bandwidth is negative.
    """
    low_F = _lower_bound(threshold, bandwidth)
    with torch.no_grad():
        if uses_triton(pre):
            low = low_F if bandwidth else None
            slots = launch_jumprelu(pre.detach(), threshold.contiguous(), low).codes
        else:
            entries = _entries_above(pre.detach(), low_F)
            slots = _pack(entries, threshold, len(pre), bandwidth > 0)
    unused_BM = slots.values == -torch.inf
    pre_BM = pre.gather(-1, slots.indices).masked_fill(unused_BM, -torch.inf)
    return _jump(slots._replace(values=pre_BM), threshold, bandwidth)


def encode_jumprelu(
    x: Float[Tensor, "B D"],
    b_dec: Float[Tensor, "D"],
    W_enc: Float[Tensor, "F D"],
    b_enc: Float[Tensor, "F"],
    threshold: Float[Tensor, "F"],
    bandwidth: float = 0.0,
    capacity: SlotCapacity | None = None,
) -> Codes:
    """Encode rows and keep the pre-activations above their latent's threshold.

    Args:
        x, b_dec, W_enc, b_enc: as for `encode_topk`.
        threshold, bandwidth: as for `jumprelu_select`.
        capacity: of kept latents and, with a bandwidth, of those below their threshold, in place of
            what the fullest rows need where Triton runs; a row that needs more has a value NaN.

    Returns:
        Codes as of `jumprelu_select`, without [B, F] in memory; the values are differentiable with
        respect to x, b_dec, W_enc, b_enc and, with a bandwidth, the threshold.

    Raises:
        ValueError: the bandwidth is negative, or widths differ.
    """
    low_F = _lower_bound(threshold, bandwidth)

    def choose() -> Codes:
        blocks = pre_activation_blocks(x, b_dec, W_enc, b_enc)
        if len(x) and uses_triton(x):
            low, high = low_F if bandwidth else None, threshold.detach().contiguous()
            return joined([launch_jumprelu(pre_BF, high, low, capacity) for pre_BF, _ in blocks])
        none = x.new_empty(0, dtype=torch.int64)
        parts: list[COOEntries] = [COOEntries(none, none, x.new_empty(0))]
        n_rows = 0
        for pre_BF, _ in blocks:
            rows, columns, pre = _entries_above(pre_BF, low_F)
            parts.append(COOEntries(rows + n_rows, columns, pre))
            n_rows += len(pre_BF)
        entries = COOEntries(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
        return _pack(entries, threshold, n_rows, bandwidth > 0)

    return _jump(encode_chosen(x, b_dec, W_enc, b_enc, choose), threshold, bandwidth)
