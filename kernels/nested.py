"""Nested decode and loss: reconstructions from the first latents alone, for growing prefixes.

With prefixes p_1 < ... < p_G = F, x_hat_g = b_dec + sum over f < p_g of codes[f] * W_dec[f], as in
Matryoshka autoencoders (arXiv 2503.17547). Each x_hat adds to the one before only the segment
between two prefixes, so that every slot is decoded once, whatever G is. With e_g = x_hat_g - x, the
gradient of segment g's sum is that of e_g + ... + e_G, so one pass back suffices, too.

On a CPU the slots of a row and segment are one bag of a ragged product. Where dense products are
faster, each segment is decoded as codes of its own, as wide as its fullest row; on a GPU, as wide
as all of them, with zeros in other segments' slots, so that the host need not know how many there
are.
"""

from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .codes import Codes, pack_entries
from .decode import Reconstruction, decode, require_comparable
from .dispatch import uses_triton
from .numerics import at_least_float32, ceil_div
from .policy import backend_of, sparse_plan


class _BaggedSlots(NamedTuple):
    """The slots in use, sorted by bag: bag g * B + b holds those of row b in segment g."""

    latents: Int[Tensor, "N"]
    values: Float[Tensor, "N"]
    bags: Int[Tensor, "N"]


def nested_mse(
    codes: Codes,
    W_dec: Float[Tensor, "F D"],
    b_dec: Float[Tensor, "D"],
    x: Float[Tensor, "B D"],
    prefixes: tuple[int, ...],
) -> Reconstruction:
    """Decode from the latents of each prefix and compare with the rows.

    Args:
        codes, W_dec, b_dec, x: as for `decode_mse`.
        prefixes: rising numbers of latents, the last one F.

    Returns:
        The mean over the prefixes of their mean squared errors, differentiable with respect to the
        values, W_dec and b_dec, and the reconstructions from all latents, detached. Without
        `l0_gate` a slot of index 0 and value 0 gets no gradient on a CPU; on a GPU it gets one,
        which the encoder drops.

    Raises:
        ValueError: the prefixes do not rise from 1 or more to F, or what `decode_mse` refuses.
    """
    require_comparable(W_dec, b_dec, x)
    ends = (0, *prefixes)
    if not prefixes or ends[-1] != len(W_dec) or any(b <= a for a, b in pairwise(ends)):
        raise ValueError(f"prefixes {prefixes} must rise to the {len(W_dec)} latents")
    if uses_triton(W_dec):
        return _compared(_decode_masked_segments(codes, W_dec, ends), b_dec, x)
    slots = _bagged_slots(codes, prefixes)
    n_rows, n_segments = len(codes.values), len(prefixes)
    slots_per_row = ceil_div(len(slots.latents), max(1, n_rows))
    if sparse_plan(len(W_dec), slots_per_row, backend_of(W_dec)).path != "embedding_bag":
        sums_GBD = _decode_segments(slots, W_dec, ends, n_rows)
    else:
        sums = _BagSums.apply(*slots, n_rows * n_segments, W_dec)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - autograd.Function is untyped
        sums_GBD = cast(Tensor, sums).view(n_segments, n_rows, W_dec.shape[1])
    return _compared(sums_GBD, b_dec, x)


def _compared(
    sums_GBD: Float[Tensor, "G B D"], b_dec: Float[Tensor, "D"], x: Float[Tensor, "B D"]
) -> Reconstruction:
    out = _NestedError.apply(sums_GBD, b_dec, x)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - autograd.Function is untyped
    return Reconstruction(*cast(tuple[Tensor, Tensor], out))


def _bagged_slots(codes: Codes, prefixes: tuple[int, ...]) -> _BaggedSlots:
    used_BM = codes.indices + codes.values != 0
    if codes.l0_gate is not None:  # latent 0 may lie just below its threshold
        used_BM = torch.ones_like(used_BM)
    rows, _ = used_BM.nonzero().unbind(1)
    latents = codes.indices[used_BM]
    ends = torch.tensor(prefixes, device=latents.device)
    segments = torch.bucketize(latents, ends, right=True)
    bags, order = (segments * len(codes.values) + rows).sort(stable=True)
    return _BaggedSlots(latents[order], codes.values[used_BM][order], bags)


def _decode_masked_segments(
    codes: Codes, W_dec: Float[Tensor, "F D"], ends: tuple[int, ...]
) -> Float[Tensor, "G B D"]:
    """[G, B, D] what each segment decodes to; the sizes of all tensors depend on shapes alone."""
    no_bias = W_dec.new_zeros(W_dec.shape[1])
    parts: list[Tensor] = []
    for (first, end), W_SD in zip(
        pairwise(ends), torch.split(W_dec, [b - a for a, b in pairwise(ends)]), strict=True
    ):
        others_BM = (codes.indices < first) | (codes.indices >= end)
        segment = Codes(
            (codes.indices - first).masked_fill_(others_BM, 0),
            codes.values.masked_fill(others_BM, 0),
        )
        parts.append(decode(segment, W_SD, no_bias))
    return torch.stack(parts)


def _decode_segments(
    slots: _BaggedSlots, W_dec: Float[Tensor, "F D"], ends: tuple[int, ...], n_rows: int
) -> Float[Tensor, "G B D"]:
    segments = slots.bags.div(max(1, n_rows), rounding_mode="floor")
    rows = slots.bags - segments * n_rows
    weights = torch.split(W_dec, [b - a for a, b in pairwise(ends)])
    no_bias = W_dec.new_zeros(W_dec.shape[1])
    parts: list[Tensor] = []
    for number, (first, W_SD) in enumerate(zip(ends, weights, strict=False)):
        own = segments == number
        segment = pack_entries(rows[own], slots.latents[own] - first, slots.values[own], n_rows)
        parts.append(decode(segment, W_SD, no_bias))
    return torch.stack(parts)


class _BagSums(torch.autograd.Function):
    """out[bag] = sum over its slots of value * W_dec[latent]."""

    @staticmethod
    def forward(
        ctx: Any, latents_N: Tensor, values_N: Tensor, bags_N: Tensor, n_bags: int, W_FD: Tensor
    ) -> Tensor:
        every_bag = torch.arange(n_bags, device=bags_N.device)
        offsets = torch.searchsorted(bags_N, every_bag)
        ctx.save_for_backward(latents_N, values_N, bags_N, offsets, W_FD)
        return torch.nn.functional.embedding_bag(
            latents_N, W_FD, offsets, per_sample_weights=values_N, mode="sum"
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator drops names
        ctx: Any, grad_ND: Tensor
    ) -> tuple[Tensor | None, ...]:
        latents_N, values_N, bags_N, offsets, W_FD = ctx.saved_tensors
        grad_ND = grad_ND.contiguous()
        grad_values_N = grad_W_FD = None
        if ctx.needs_input_grad[1]:
            grad_values_N = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                grad_ND, W_FD, latents_N, offsets, bags_N, 0
            )
        if ctx.needs_input_grad[4]:
            sorted_N, order_N = latents_N.sort(stable=True)
            every_latent = torch.arange(len(W_FD), device=latents_N.device)
            grad_W_FD = torch.nn.functional.embedding_bag(
                bags_N[order_N],
                grad_ND,
                torch.searchsorted(sorted_N, every_latent),
                per_sample_weights=values_N[order_N],
                mode="sum",
            )
        return None, grad_values_N, None, None, grad_W_FD


class _NestedError(torch.autograd.Function):
    """Loss and last reconstruction from the segments' sums."""

    @staticmethod
    def forward(ctx: Any, sums_GBD: Tensor, b_dec_D: Tensor, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        errors_GBD = torch.empty_like(sums_GBD)
        before_BD = b_dec_D - x_BD
        for sum_BD, error_BD in zip(sums_GBD, errors_GBD, strict=True):
            before_BD = torch.add(before_BD, sum_BD, out=error_BD)
        x_hat_BD = x_BD + before_BD
        count = max(1, errors_GBD.numel())
        wide = errors_GBD.flatten().to(at_least_float32(x_BD.dtype))
        loss = wide.dot(wide) / count
        errors_GBD[-1] *= 2 / count
        for later_BD, error_BD in pairwise(reversed(errors_GBD.unbind())):
            error_BD.mul_(2 / count).add_(later_BD)
        ctx.save_for_backward(errors_GBD)
        ctx.mark_non_differentiable(x_hat_BD)
        return loss, x_hat_BD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator drops names
        ctx: Any, grad_loss: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradients_GBD,) = ctx.saved_tensors
        return grad_loss * gradients_GBD, grad_loss * gradients_GBD[0].sum(0), None
