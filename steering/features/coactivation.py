"""Latents that fire on the same tokens, counted from a sample of each latent's firings.

In the pass the latents that fire on each row are written down, 4 bytes each. At the end each latent
takes `FIRINGS` of its firings at random, or all if it has no more, and counts who else fires there.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...kernels.codes import pack_entries
from .hashing import mixed, priorities
from .runs import run_lengths
from .windows import SortedCodes

FIRINGS = 256
"""Firings of a latent that are looked at, on average of those that fire more often."""

_ENTRIES = 1 << 29
"""Codes written down of all rows; if there are more, of rows at random."""
_COUNTS_AT_ONCE = 1 << 24
_PAIRS_AT_ONCE = 1 << 22
"""Sizes of the blocks that are in memory at a time."""


class Together(NamedTuple):
    """For each latent the others that fire with it, best first."""

    numbers: Int[np.ndarray, "F M"]
    """int32; -1 where there are no more."""
    together: Float[np.ndarray, "F M"]
    """float32: fraction of the latent's firings at which the other one fires, too."""
    jaccard: Float[np.ndarray, "F M"]
    """float32: rows on which both fire as a fraction of those on which either does."""


class FiringRows:
    """The latents that fire on each row; those of a shard at a time are in memory.

    Attributes:
        one_in: of how many rows one is written down; None before the first chunk.
    """

    def __init__(self, total_rows: int, seed: int) -> None:
        """For a pass over so many rows."""
        self.one_in: int | None = None
        self._total_rows, self._seed = total_rows, seed
        self._rows: list[Tensor] = []
        self._latents: list[Tensor] = []

    def add(self, activations: SortedCodes, first_row: int) -> None:
        """Note the rows of a chunk."""
        if self.one_in is None:
            expected = len(activations.rows) * self._total_rows / activations.n_rows
            self.one_in = 1 + int(expected) // _ENTRIES
        rows, order = activations.rows.sort(stable=True)
        rows, latents = rows + first_row, activations.latents[order]
        if self.one_in > 1:
            seeded = mixed(rows ^ mixed(torch.tensor(self._seed + 2, device=rows.device)))
            chosen = (seeded & torch.iinfo(torch.int64).max) % self.one_in == 0
            rows, latents = rows[chosen], latents[chosen]
        self._rows.append(rows)
        self._latents.append(latents)

    def take_shard(self) -> dict[str, np.ndarray]:
        """The rows since the last call: their numbers in the cache, where the latents of each begin
        (and the last one's end), and the latents."""
        none = torch.zeros(0, dtype=torch.int64)
        all_rows = torch.cat([none, *(rows.cpu() for rows in self._rows)])
        rows, counts = run_lengths(all_rows)
        starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        latents = torch.cat([none, *(latents.cpu() for latents in self._latents)]).int()
        self._rows, self._latents = [], []
        arrays = {"rows": rows, "row_starts": starts, "row_latents": latents}
        return {name: array.numpy() for name, array in arrays.items()}


def coactivating(
    read: Callable[[int, str], np.ndarray],
    n_shards: int,
    fired: Int[np.ndarray, "F"],
    n_best: int,
    seed: int,
    firings: int = FIRINGS,
) -> Together:
    """The latents with the largest Jaccard index of their firings with those of each latent.

    Exact for a latent that fires at most `firings` times, if all rows were written down. Of one
    that fires more often each firing is looked at with a chance of `firings` / all, which makes the
    fractions uncertain by up to 0.03 (their standard error).

    Args:
        read: gives an array that `FiringRows.take_shard` made, by the number of the shard and name.
        n_shards: how many there are.
        fired: firings of each latent in all.
        n_best: M, or as many others as there are.
        seed: of the sample.
        firings: see above.
    """
    n_latents = len(fired)
    written = np.zeros(n_latents, dtype=np.int64)
    for shard in range(n_shards):
        written += np.bincount(read(shard, "row_latents"), minlength=n_latents)
    samples = [_sample(read, shard, written, seed, firings) for shard in range(n_shards)]
    n_best = min(n_best, n_latents - 1)
    best: list[tuple[Tensor, Tensor, Tensor]] = []
    block = max(1, min(n_latents, _COUNTS_AT_ONCE // n_latents))
    for first in range(0, n_latents, block):
        last = min(first + block, n_latents)
        counts_BF = torch.zeros(last - first, n_latents, dtype=torch.int32)
        for shard, (latents, places) in enumerate(samples):
            begin, end = np.searchsorted(latents, (first, last))
            part = latents[begin:end] - first, places[begin:end]
            _count(counts_BF, *part, read(shard, "row_starts"), read(shard, "row_latents"))
        best.append(_best(counts_BF, first, torch.as_tensor(fired), n_best))
    numbers, together, jaccard = (torch.cat(parts).numpy() for parts in zip(*best, strict=True))
    return Together(numbers, together, jaccard)


def _sample(
    read: Callable[[int, str], np.ndarray],
    shard: int,
    written: Int[np.ndarray, "F"],
    seed: int,
    firings: int,
) -> tuple[Int[np.ndarray, "E"], Int[np.ndarray, "E"]]:
    """Latents and places in `rows` of the firings of a shard to look at, sorted by latent."""
    starts = np.asarray(read(shard, "row_starts"))
    places = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
    latents = np.array(read(shard, "row_latents"))
    often = np.flatnonzero(written[latents] > firings)
    rows = torch.as_tensor(np.asarray(read(shard, "rows"))[places[often]])
    of_often = torch.as_tensor(latents[often].astype(np.int64))
    # Not the seed of the random examples, whose firings would then be those with large priorities.
    chance = priorities(of_often, rows, seed + 1).double().numpy() / 2**63
    chosen = np.ones(len(latents), dtype=bool)
    chosen[often] = chance * written[latents[often]] < firings
    latents, places = latents[chosen], places[chosen]
    order = np.argsort(latents, kind="stable")
    return latents[order], places[order]


def _count(
    counts_BF: Int[Tensor, "B F"],
    latents: Int[np.ndarray, "E"],
    places: Int[np.ndarray, "E"],
    starts: Int[np.ndarray, "R1"],
    row_latents: Int[np.ndarray, "N"],
) -> None:
    """Add, for each firing of a latent of the block, one for every latent of its row."""
    n_latents = counts_BF.shape[1]
    begins = np.asarray(starts)[places]
    lengths = np.asarray(starts)[places + 1] - begins
    ends = lengths.cumsum()
    flat = counts_BF.view(-1)
    done = 0
    while done < len(latents):
        before = int(ends[done - 1]) if done else 0
        until = max(done + 1, int(np.searchsorted(ends, before + _PAIRS_AT_ONCE, "right")))
        part = slice(done, until)
        # For every pair its place among all of the row's: a range for each firing.
        shifts = np.repeat(begins[part] - (ends[part] - lengths[part] - before), lengths[part])
        others = row_latents[shifts + np.arange(len(shifts))]
        keys = np.repeat(latents[part].astype(np.int64) * n_latents, lengths[part]) + others
        ones = torch.ones(len(keys), dtype=torch.int32)
        flat.scatter_add_(0, torch.as_tensor(keys), ones)
        done = until


def _best(
    counts_BF: Int[Tensor, "B F"], first: int, fired_F: Int[Tensor, "F"], n_best: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers, fractions and Jaccard indices of the best of a block of latents."""
    own_B = torch.arange(first, first + len(counts_BF))
    sampled_B1 = counts_BF.gather(1, own_B[:, None]).clamp(min=1)
    counts_BF.scatter_(1, own_B[:, None], 0)
    # Few of all pairs fire together, so only those go on.
    rows_N, others_N = counts_BF.nonzero(as_tuple=True)
    pairs = pack_entries(rows_N, others_N, counts_BF[rows_N, others_N].float(), len(counts_BF))
    missing = max(0, n_best - pairs.indices.shape[1])
    others_BP = torch.nn.functional.pad(pairs.indices, (0, missing))
    together_BP = torch.nn.functional.pad(pairs.values, (0, missing)) / sampled_B1
    fired_B1, fired_BP = fired_F[own_B][:, None].float(), fired_F[others_BP].float()
    # A sample may find more in common than the other one has at all.
    both_BP = (together_BP * fired_B1).minimum(fired_BP)
    jaccard_BP = both_BP / (fired_B1 + fired_BP - both_BP).clamp(min=1)
    jaccard_BM, best_BM = jaccard_BP.topk(n_best, dim=1)
    none_BM = jaccard_BM <= 0
    numbers_BM = others_BP.gather(1, best_BM).int().masked_fill(none_BM, -1)
    return numbers_BM, together_BP.gather(1, best_BM).masked_fill(none_BM, 0), jaccard_BM
