"""Batch top-k selection: codes = the B * k largest positive entries of a whole batch of rows.

So k is the mean of a row's count, and each row takes what it needs (BatchTopK, arXiv 2412.06410).

Rows may come in blocks. Of what came so far only the n = B * k largest entries are kept, and the
least of them is the threshold that a later entry must exceed; so every block adds few candidates,
and the final choice is exact. For the first block the threshold is a quantile of a sample; if fewer
than n entries turn out to exceed it, the block is searched once more with the threshold 0.
`batch_topk_launches` is how a GPU does it.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .batch_topk_launches import LaunchedBatchTop
from .capacity import SlotCapacity
from .codes import Codes, COOEntries, pack_entries
from .dispatch import uses_triton
from .process_group import ProcessGroup, distributed_topk_mask
from .topk_keys import require_k

_SAMPLE = 1 << 16


class BatchTop:
    """The n_kept largest positive entries of all the rows that were added, of equal ones the first.

    NaN counts as infinity and stays visible in the values.

    Args:
        n_kept: how many to keep.
        like: a tensor of the rows' dtype and device.
        capacity: of one part, in place of the largest count where Triton runs; a row that needs
            more, or may need more, has NaN for all its values.
        n_rows: the number of rows that n_kept is meant for, those of other processes among them.
    """

    def __init__(
        self, n_kept: int, like: Tensor, capacity: SlotCapacity | None = None, n_rows: int = 0
    ) -> None:
        self._launched: LaunchedBatchTop | None = None
        if uses_triton(like):
            self._launched = LaunchedBatchTop(n_kept, like, capacity, n_rows)
        self._n_kept = n_kept
        self._n_rows = 0
        self._rows = torch.zeros(0, dtype=torch.int64, device=like.device)
        self._columns = self._rows
        self._values = like.new_empty(0)
        self._threshold = like.new_zeros(1)

    def add(self, pre: Float[Tensor, "B F"]) -> None:
        """Take the rows that follow those added before; pre may be overwritten afterwards."""
        if self._launched is not None:
            self._launched.add(pre)
            return
        if not pre.numel() or not self._n_kept:
            self._n_rows += len(pre)
            return
        rows, columns, values = self._candidates(pre)
        self._rows = torch.cat([self._rows, rows + self._n_rows])
        self._columns = torch.cat([self._columns, columns])
        self._values = torch.cat([self._values, values])
        self._n_rows += len(pre)
        self._keep_largest()

    def codes(self, group: ProcessGroup | None = None) -> Codes:
        """The entries as codes of all the rows; unused slots are (0, 0).

        With a group, n_kept counts the entries of all its ranks, and every rank calls this.
        """
        if self._launched is not None:
            return self._launched.codes(group)
        if group is not None:
            self._keep(distributed_topk_mask(self._values, self._n_kept, group))
        return pack_entries(self._rows, self._columns, self._values, self._n_rows)

    def _candidates(self, pre_BF: Float[Tensor, "B F"]) -> COOEntries:
        flat_N = pre_BF.flatten()
        threshold = self._threshold
        if not len(self._values):
            threshold = torch.maximum(threshold, _sampled_threshold(flat_N, self._n_kept))
        positions = _above(flat_N, threshold)
        if len(positions) + len(self._values) < self._n_kept and threshold > self._threshold:
            positions = _above(flat_N, self._threshold)
        n_latents = pre_BF.shape[1]
        rows = positions.div(n_latents, rounding_mode="floor")
        return COOEntries(rows, positions - rows * n_latents, flat_N[positions])

    def _keep_largest(self) -> None:
        if len(self._values) <= self._n_kept:
            return
        scores = self._values.masked_fill(self._values.isnan(), torch.inf)
        least = scores.topk(self._n_kept, sorted=False).values.min()
        above, tied = scores > least, scores == least
        kept = above | (tied & (tied.cumsum(0) <= self._n_kept - above.sum()))
        self._keep(kept)
        self._threshold = least[None]

    def _keep(self, kept: Bool[Tensor, "N"]) -> None:
        self._rows, self._columns = self._rows[kept], self._columns[kept]
        self._values = self._values[kept]


def _above(flat_N: Float[Tensor, "N"], threshold: Float[Tensor, "1"]) -> Int[Tensor, "P"]:
    """Positions of what exceeds the threshold, NaN included."""
    return (flat_N <= threshold).logical_not_().nonzero()[:, 0]


def _sampled_threshold(flat_N: Float[Tensor, "N"], n_kept: int) -> Float[Tensor, "1"]:
    """A threshold that a few more than n_kept entries exceed, estimated from a sample.

    0 where the sample is too small to tell.
    """
    sample = flat_N[:: max(1, len(flat_N) // _SAMPLE)]
    expected = n_kept * len(sample) / len(flat_N)
    rank = math.ceil(expected + 3 * expected**0.5) + 1
    if rank > len(sample):
        return flat_N.new_zeros(1)
    return sample.topk(rank).values[-1:].nan_to_num(nan=0.0, posinf=0.0).clamp(min=0)


def batch_topk_select(pre: Float[Tensor, "B F"], k: int) -> Codes:
    """Keep the B * k largest positive pre-activations of the whole batch.

    Args:
        pre: [B, F] pre-activations, any floating dtype, any strides.
        k: latents kept of a row on average, 1 to F.

    Returns:
        Codes with indices and values [B, M] and counts [B]; M is the largest count, at least 1. A
        row's slots are in rising order of their indices; unused ones are index 0, value 0. Fewer
        than B * k are kept where fewer pre-activations are positive. Of equal values those of the
        lowest rows, then of the lowest indices are kept, so the result is deterministic. NaN counts
        as infinity and stays visible in the values.

    Raises:
        ValueError: k is not between 1 and F.

    Selection carries no gradient of its own; `sparsteer.kernels.encode` differentiates through it.
    """
    require_k(k, pre.shape[1])
    with torch.no_grad():
        top = BatchTop(len(pre) * k, pre)
        top.add(pre.detach())
        return top.codes()
