"""The best examples of every latent, kept while the cache streams past.

A table holds for each of F latents the N rows with the largest scores so far, with their token
windows. Candidates and tables are merged by sorts over all latents at once; the result does not
depend on the chunks in which rows come, and of equal scores the earlier row wins.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from .runs import is_first, run_numbers
from .windows import NO_TOKEN, CacheChunk, SortedCodes, TokenWindows

_UNUSED = {
    "scores": -1,
    "rows": -1,
    "identities": 0,
    "duplicates": 0,
    "docs": -1,
    "positions": -1,
    "tokens": NO_TOKEN,
    "activations": 0,
}
"""What stands in a place of a table that no example takes."""

_LATENTS_AT_ONCE = 2048
"""Latents whose tables are merged together, so that temporaries stay small."""


@dataclass(frozen=True)
class Candidates:
    """Rows of a chunk that want to be an example of a latent, in the order of their rows."""

    latents: Int[Tensor, "E"]
    rows: Int[Tensor, "E"]
    """int64: numbers within the chunk."""
    scores: Shaped[Tensor, "E"]
    """float32 or int64, at least 0."""

    def chosen(self, which: Shaped[Tensor, "..."]) -> "Candidates":
        """Some of them, by a mask or by numbers."""
        return Candidates(self.latents[which], self.rows[which], self.scores[which])


def one_per_context(candidates: Candidates, context_R: Int[Tensor, "R"]) -> Candidates:
    """Of each latent and context the row with the largest score, the first of equal ones.

    Args:
        candidates: sorted by latent, then row.
        context_R: each row's context.
    """
    latents, rows, values = candidates.latents, candidates.rows, candidates.scores
    if not len(latents):
        return candidates
    groups_E = run_numbers(latents * len(context_R) + context_R[rows])
    largest_G = values.new_zeros(int(groups_E[-1]) + 1)
    largest_G.scatter_reduce_(0, groups_E, values, "amax")
    peaks = (values == largest_G[groups_E]).nonzero()[:, 0]
    first = is_first(groups_E[peaks])
    return candidates.chosen(peaks[first])


@dataclass(frozen=True)
class Offers:
    """The best candidates of some latents."""

    candidates: Candidates
    folded: Int[Tensor, "E"]
    """How many with the same window each one stands for beside itself."""
    latents: Int[Tensor, "T"]
    numbers: Int[Tensor, "T N"]
    """Which candidates, the best first; -1 for none."""


class ExampleTable:
    """The N best rows of each of F latents.

    Attributes, all [F, N] or [F, N, W], best first, unused places at the end:
        scores: -1 in an unused place.  rows: number in the cache, -1 in an unused place.
        identities: hash of the window.  duplicates: places with the same window that were left out.
        docs, positions: where the row is in the corpus.
        tokens: int32 window.  activations: float32, the latent's at every token of the window.
    """

    def __init__(
        self,
        n_latents: int,
        n_examples: int,
        window: int,
        *,
        score_dtype: torch.dtype,
        distinct: bool,
        device: str,
    ) -> None:
        """An empty table; with `distinct`, of equal windows only the best stays, and the others are
        counted."""
        self.distinct = distinct

        def unused(name: str, dtype: torch.dtype, *more: int) -> Tensor:
            shape = (n_latents, n_examples, *more)
            return torch.full(shape, _UNUSED[name], dtype=dtype, device=device)

        self.scores = unused("scores", score_dtype)
        self.rows = unused("rows", torch.int64)
        self.identities = unused("identities", torch.int64)
        self.duplicates = unused("duplicates", torch.int32)
        self.docs = unused("docs", torch.int64)
        self.positions = unused("positions", torch.int32)
        self.tokens = unused("tokens", torch.int32, window)
        self.activations = unused("activations", torch.float32, window)

    def state(self) -> dict[str, Tensor]:
        """The tensors that make up the table."""
        return {name: getattr(self, name) for name in _UNUSED}

    def offer(
        self,
        candidates: Candidates,
        chunk: CacheChunk,
        windows: TokenWindows,
        activations: SortedCodes,
    ) -> None:
        """Offer rows; each replaces the worst example of its latent if its score is higher."""
        worst_F = self.scores[:, -1]
        candidates = candidates.chosen(candidates.scores > worst_F[candidates.latents])
        candidates = _by_latent_and_score(candidates)
        folded_E = torch.zeros_like(candidates.rows)
        if self.distinct:
            first_E, folded_E = _best_of_equal(candidates, windows.identity)
            candidates, folded_E = candidates.chosen(first_E), folded_E[first_E]
        latents_T, offers_TN = _ranked(candidates, n_best=self.scores.shape[1])
        for start in range(0, len(latents_T), _LATENTS_AT_ONCE):
            merge = slice(start, start + _LATENTS_AT_ONCE)
            offers = Offers(candidates, folded_E, latents_T[merge], offers_TN[merge])
            self._merge(offers, chunk, windows, activations)

    def _merge(
        self, offers: Offers, chunk: CacheChunk, windows: TokenWindows, activations: SortedCodes
    ) -> None:
        """Merge the tables of some latents with their ranked candidates."""
        n_examples = self.scores.shape[1]
        candidates, latents_T, offers_TN = offers.candidates, offers.latents, offers.numbers
        rows_TN = candidates.rows[offers_TN.clamp(min=0)]
        none_TN = offers_TN < 0
        scores_TN = candidates.scores[offers_TN.clamp(min=0)].masked_fill(none_TN, -1)
        both = torch.cat([self.scores[latents_T], scores_TN], dim=1)
        folded_TN = offers.folded[offers_TN.clamp(min=0)].masked_fill(none_TN, 0).int()
        if self.distinct:
            equal_TNN = (
                rearrange(self.identities[latents_T], "t n -> t n 1")
                == rearrange(windows.identity[rows_TN], "t m -> t 1 m")
            ) & _both_used(self.scores[latents_T], scores_TN)
            both = both.masked_fill(_loses(equal_TNN, both), -1)
            # Whichever of two equal ones stays has those of both, and the other.
            old_TN = self.duplicates[latents_T]
            met_TN = (equal_TNN * (folded_TN + 1)[:, None, :]).sum(2, dtype=torch.int32)
            had_TN = (equal_TNN * (old_TN + 1)[:, :, None]).sum(1, dtype=torch.int32)
            self.duplicates[latents_T] = old_TN + met_TN
            folded_TN = folded_TN + had_TN
        scores_TN, order_TN = both.sort(dim=1, descending=True, stable=True)
        scores_TN, order_TN = scores_TN[:, :n_examples], order_TN[:, :n_examples]
        unused_TN = scores_TN < 0
        new_TN = (order_TN >= n_examples) & ~unused_TN
        old_TN = order_TN.clamp(max=n_examples - 1)
        from_TN = (order_TN - n_examples).clamp(min=0)
        rows_E = rows_TN.gather(1, from_TN)[new_TN]
        latents_E = latents_T[:, None].expand_as(new_TN)[new_TN]
        new_values = {
            "rows": rows_E + chunk.first_row,
            "identities": windows.identity[rows_E],
            "duplicates": folded_TN.gather(1, from_TN)[new_TN],
            "docs": chunk.doc[rows_E],
            "positions": chunk.position[rows_E],
            "tokens": windows.tokens[rows_E],
            "activations": activations.at(latents_E, windows.rows[rows_E]),
        }
        for name, values_E in new_values.items():
            table = getattr(self, name)
            merged = table[latents_T[:, None], old_TN]
            merged[new_TN] = values_E.to(table.dtype)
            merged[unused_TN] = _UNUSED[name]
            table[latents_T] = merged
        self.scores[latents_T] = scores_TN


def _both_used(old_TN: Tensor, new_TN: Tensor) -> Bool[Tensor, "T N N"]:
    return rearrange(old_TN >= 0, "t n -> t n 1") & rearrange(new_TN >= 0, "t m -> t 1 m")


def _loses(
    equal_TNN: Bool[Tensor, "T N N"], scores_TM: Shaped[Tensor, "T M"]
) -> Bool[Tensor, "T M"]:
    """Of every pair of an old and an offered example with equal windows the one with less."""
    old_TN, new_TN = scores_TM.chunk(2, dim=1)
    old_TN1, new_T1N = rearrange(old_TN, "t n -> t n 1"), rearrange(new_TN, "t m -> t 1 m")
    old_loses = (equal_TNN & (new_T1N > old_TN1)).any(2)
    new_loses = (equal_TNN & (new_T1N <= old_TN1)).any(1)
    return torch.cat([old_loses, new_loses], dim=1)


def _by_latent_and_score(candidates: Candidates) -> Candidates:
    """Sorted by latent, then from the best score down, then by row."""
    best_first = candidates.chosen(candidates.scores.argsort(descending=True, stable=True))
    return best_first.chosen(best_first.latents.argsort(stable=True))


def _best_of_equal(
    candidates: Candidates, identity_R: Int[Tensor, "R"]
) -> tuple[Bool[Tensor, "E"], Int[Tensor, "E"]]:
    """Which sorted candidates are the first of their latent with their window, and how many others
    have the window of each of those."""
    identities_E = identity_R[candidates.rows]
    order = identities_E.argsort(stable=True)
    order = order[candidates.latents[order].argsort(stable=True)]
    first = is_first(candidates.latents[order]) | is_first(identities_E[order])
    kept = torch.empty_like(first)
    kept[order] = first
    others = torch.zeros_like(order)
    others[order[first]] = torch.bincount(first.cumsum(0) - 1) - 1
    return kept, others


def _ranked(candidates: Candidates, n_best: int) -> tuple[Int[Tensor, "T"], Int[Tensor, "T N"]]:
    """The latents among sorted candidates, and the numbers of each one's first N, -1 for none."""
    n_offers = len(candidates.latents)
    starts_T = is_first(candidates.latents).nonzero()[:, 0]
    ends_T = torch.cat([starts_T[1:], starts_T.new_full((min(n_offers, 1),), n_offers)])
    numbers_TN = starts_T[:, None] + torch.arange(n_best, device=starts_T.device)
    return candidates.latents[starts_T], numbers_TN.masked_fill(numbers_TN >= ends_T[:, None], -1)
