"""Near misses: where a latent's pre-activation was high and the activation did not keep it.

The product of a block of rows with the encoder is taken once more, as the codes say only what was
kept; of the block [b, F] nothing stays but, for each context, the rows that beat a latent's table.
"""

from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor

from ...kernels.codes import Codes
from ...kernels.encode import pre_activation_blocks
from ...sae.autoencoder import SparseAutoencoder
from .runs import run_lengths
from .tables import Candidates, ExampleTable, one_per_context
from .windows import CacheChunk, SortedCodes, TokenWindows

_PENDING_AT_ONCE = 1 << 21
"""Candidates that wait to be merged into the table."""


def why_none(sae: SparseAutoencoder) -> str:
    """Why an autoencoder has no near misses, in a sentence; empty if it has."""
    activation = sae.config.activation
    if sae.config.lista_step:
        return "a LISTA step compares pre-activations of other rows than those it reads"
    if not sae.values_are_pre_activations:
        return f"what {activation} compares is not what it keeps"
    try:
        positive = bool((sae.thresholds() > 0).any())
    except ValueError:  # the choice does not depend on the latent alone
        return ""
    return "" if positive else f"{activation} keeps every positive pre-activation"


class NearMisses:
    """Collects the largest positive pre-activations that were not kept, one for each context."""

    def __init__(self, sae: SparseAutoencoder, table: ExampleTable) -> None:
        """For an autoencoder and the table, which is `distinct`, that takes the examples."""
        self._sae = sae
        self.table = table

    def add(
        self,
        chunk: CacheChunk,
        parts: list[tuple[Tensor, Codes]],
        windows: TokenWindows,
        activations: SortedCodes,
    ) -> None:
        """Look through a chunk.

        Args:
            chunk: rows of the cache.
            parts: codes of some of its rows, in order, with the rows' numbers.
            windows: of all its rows.
            activations: the codes of all parts.
        """
        self._pending: list[Candidates] = []
        self._n_pending = 0
        for numbers_B, codes in parts:
            done = 0
            scaled_BD = self._sae.scaled(chunk.rows_RD[numbers_B])
            weights = self._sae.center, self._sae.W_enc, self._sae.b_enc
            for pre_BF, _ in pre_activation_blocks(scaled_BD, *weights):
                block = slice(done, done + len(pre_BF))
                done = block.stop
                slots_N2 = (codes.values[block] > 0).nonzero()
                kept_N = codes.indices[block][slots_N2[:, 0], slots_N2[:, 1]]
                pre_BF[slots_N2[:, 0], kept_N] = 0
                self._scan(pre_BF, numbers_B[block], chunk.context)
                if self._n_pending > _PENDING_AT_ONCE:
                    last = int(chunk.context[numbers_B[block.stop - 1]])
                    self._merge(last, chunk, windows, activations)
        self._merge(None, chunk, windows, activations)

    def _scan(self, pre_BF: Tensor, rows_B: Int[Tensor, "B"], context_R: Tensor) -> None:
        """Note, of each context in a block, the best row of every latent whose table it beats."""
        least_F = self.table.scores[:, -1].clamp(min=0).to(pre_BF.dtype)
        lengths = cast(list[int], run_lengths(context_R[rows_B])[1].tolist())  # pyright: ignore[reportUnknownMemberType] - untyped
        blocks = zip(torch.split(pre_BF, lengths), torch.split(rows_B, lengths), strict=True)
        for part_CF, rows_C in blocks:
            largest_F = part_CF.amax(0)
            latents_E = (largest_F > least_F).nonzero()[:, 0]
            if len(latents_E):
                places_E = part_CF[:, latents_E].argmax(0)
                scores_E = largest_F[latents_E].float()
                self._pending.append(Candidates(latents_E, rows_C[places_E], scores_E))
                self._n_pending += len(latents_E)

    def _merge(
        self,
        unfinished: int | None,
        chunk: CacheChunk,
        windows: TokenWindows,
        activations: SortedCodes,
    ) -> None:
        """Offer what is pending to the table, but for a context that is not finished."""
        if not self._pending:
            return
        found = Candidates(
            torch.cat([part.latents for part in self._pending]),
            torch.cat([part.rows for part in self._pending]),
            torch.cat([part.scores for part in self._pending]),
        )
        waits_E = chunk.context[found.rows] == (-1 if unfinished is None else unfinished)
        self._pending, self._n_pending = [found.chosen(waits_E)], int(waits_E.sum())
        found = found.chosen(~waits_E)
        found = found.chosen(found.latents.argsort(stable=True))  # rows are in order already
        self.table.offer(one_per_context(found, chunk.context), chunk, windows, activations)
