"""Sparse codes: the one type from the encoder to the decoder, steering and selection."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Codes(NamedTuple):
    """The active latents of a batch of rows.

    Shapes are written for rows [B]; any number of leading dimensions may stand in their place.
    An unused slot holds index 0 and value 0, so it changes no sum; within a row no other index
    occurs twice. The order of a row's slots is up to the operator that made it.
    """

    indices: Int[Tensor, "*B M"]
    """int64: the latent of each slot."""
    values: Float[Tensor, "*B M"]
    """The latent's activation, in the dtype of the pre-activations; positive in a used slot."""
    counts: Int[Tensor, "*B"] | None = None
    """int64: used slots of each row, which come first; None where all M slots are meant."""
    l0_gate: Float[Tensor, "*B M"] | None = None
    """Only of jumprelu in training: 1 in used slots and 0 elsewhere, so that its sum over a row is
    the row's L0, with a gradient for the thresholds. Then latents just below their threshold have
    slots of value 0 behind the used ones."""
    row_scale: Float[Tensor, "*B 1"] | None = None
    """Only of an autoencoder that normalizes each row: what the decoder multiplies the decoded row
    by, and"""
    row_shift: Float[Tensor, "*B 1"] | None = None
    """what it adds to it then."""

    def dense(self, n_latents: int) -> Float[Tensor, "*B F"]:
        """The codes as a dense [..., F] tensor, for tests and small things."""
        dense = self.values.new_zeros(*self.values.shape[:-1], n_latents)
        return dense.scatter_add(-1, self.indices, self.values)


class COOEntries(NamedTuple):
    """Single entries of a [B, F] matrix in coordinate (COO) format, sorted by row, then column."""

    rows: Int[Tensor, "N"]
    columns: Int[Tensor, "N"]
    values: Float[Tensor, "N"]


def pack_entries(
    rows: Int[Tensor, "N"], columns: Int[Tensor, "N"], values: Float[Tensor, "N"], n_rows: int
) -> Codes:
    """Codes [B, M] with counts from single entries that are sorted by row.

    M is the largest count, at least 1, which waits for the device.
    """
    counts = torch.bincount(rows, minlength=n_rows)
    width = max(1, int(counts.max())) if n_rows else 1
    starts = counts.cumsum(0) - counts
    slots = torch.arange(len(rows), device=rows.device) - starts[rows]
    indices_BM = rows.new_zeros(n_rows, width)
    values_BM = values.new_zeros(n_rows, width)
    indices_BM[rows, slots] = columns
    values_BM[rows, slots] = values
    return Codes(indices_BM, values_BM, counts)


def join_codes(parts: list[Codes], like: Tensor, max_active: int | None = None) -> Codes:
    """One Codes with counts from those of consecutive rows.

    Args:
        parts: the codes of each block of rows, with counts; may be empty.
        like: a tensor whose dtype and device codes of no rows get.
        max_active: width M of the result; None for that of the widest part.

    Raises:
        ValueError: a row keeps more than max_active latents.
    """
    if not parts:
        empty = torch.zeros(0, max_active or 1, dtype=torch.int64, device=like.device)
        return Codes(empty, empty.to(like.dtype), empty[:, 0])
    largest = max(part.indices.shape[-1] for part in parts)
    width = largest if max_active is None else max_active
    if largest > width:
        raise ValueError(
            f"a row keeps {largest} latents, more than max_active={width}; "
            "raise max_active or leave it out"
        )

    def padded(slots_BM: Tensor) -> Tensor:
        if slots_BM.shape[-1] == width:
            return slots_BM
        return torch.nn.functional.pad(slots_BM, (0, width - slots_BM.shape[-1]))

    if len(parts) == 1:
        return Codes(padded(parts[0].indices), padded(parts[0].values), parts[0].counts)
    return Codes(
        torch.cat([padded(part.indices) for part in parts]),
        torch.cat([padded(part.values) for part in parts]),
        torch.cat([part.counts for part in parts if part.counts is not None]),
    )
