"""The activations of a random sample of an autoencoder's latents on held-out rows."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ....sae.autoencoder import SparseAutoencoder
from ...data.cache.held_out_rows import HeldOutRows

_MOST_ENTRIES = 1 << 25
"""Activations that are kept, at 16 bytes each; of dense codes fewer latents are looked at."""


@dataclass(frozen=True)
class LatentSample:
    """Activations of S latents, all of which fire, sorted by latent, then by row."""

    latents: Int[Tensor, "S"]
    """Their numbers, rising."""
    starts: Int[Tensor, "S1"]
    """Where the entries of each begin; at the end how many there are."""
    rows: Int[Tensor, "E"]
    """int64: the rows on which they fire."""
    values: Float[Tensor, "E"]
    """float32: their activations there, above 0."""
    n_drawn: int
    """Latents that were drawn, those that never fired among them."""
    n_alive: int
    """How many of those fired."""

    def of(self, place: int) -> tuple[Int[Tensor, "M"], Float[Tensor, "M"]]:
        """Rows and activations of one of the latents."""
        part = slice(int(self.starts[place]), int(self.starts[place + 1]))
        return self.rows[part], self.values[part]


@torch.no_grad()
def sample_latents(
    sae: SparseAutoencoder,
    rows: HeldOutRows,
    n_latents: int,
    *,
    seed: int,
    progress: Callable[[int], None] = lambda rows: None,
) -> LatentSample:
    """Draw latents and encode the rows once for them; only those that fire are kept.

    Twice as many are drawn as are wanted, and the first that fire are taken, so that a dictionary
    of which more than half is dead gives fewer. Codes that are dense do, too, for memory's sake.

    Args:
        sae: the autoencoder.
        rows: raw rows; those that do not count are left out.
        n_latents: how many are wanted.
        seed: of the draw.
        progress: told the rows of each block.
    """
    n_all = sae.config.n_latents
    order = np.random.default_rng(seed).permutation(n_all)
    drawn_F = torch.zeros(n_all, dtype=torch.bool)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    n_drawn = 0
    for place, x_BD in rows.blocks(sae.W_dec.device):
        codes = sae.encode(x_BD)
        fires_BM = (codes.values > 0) & rows.kept[place].to(x_BD.device)[:, None]
        if not n_drawn:
            expected = int(fires_BM.sum()) / len(x_BD) * len(rows.context) / n_all
            n_drawn = min(2 * n_latents, n_all, max(1, int(_MOST_ENTRIES / max(expected, 1.0))))
            drawn_F[torch.as_tensor(order[:n_drawn])] = True
        row_E, slot_E = fires_BM.nonzero(as_tuple=True)
        latents_E = codes.indices[row_E, slot_E].cpu()
        wanted_E = drawn_F[latents_E]
        values_E = codes.values[row_E, slot_E].float().cpu()[wanted_E]
        parts.append((latents_E[wanted_E], row_E.cpu()[wanted_E] + place.start, values_E))
        progress(len(x_BD))
    latents_E, rows_E, values_E = (torch.cat(column) for column in zip(*parts, strict=True))
    fired_F = torch.bincount(latents_E, minlength=n_all)
    alive = [int(latent) for latent in order[:n_drawn] if fired_F[latent]]
    latents_S = torch.tensor(sorted(alive[:n_latents]), dtype=torch.int64)
    place_F = torch.full((n_all,), -1)
    place_F[latents_S] = torch.arange(len(latents_S))
    chosen_E = (place_F[latents_E] >= 0).nonzero()[:, 0]
    chosen_E = chosen_E[latents_E[chosen_E].argsort(stable=True)]  # rows are in order already
    starts_S1 = torch.nn.functional.pad(fired_F[latents_S].cumsum(0), (1, 0))
    return LatentSample(
        latents_S, starts_S1, rows_E[chosen_E], values_E[chosen_E], n_drawn, len(alive)
    )


def strongest_rows(
    rows_M: Int[Tensor, "M"], scores_M: Float[Tensor, "M"], document_N: Int[Tensor, "N"], most: int
) -> Int[Tensor, "P"]:
    """Places among a latent's rows of the largest scores, at most one of each document, best first.

    Args:
        rows_M, scores_M: the rows on which it fires, and what they are ranked by.
        document_N: the document of every row.
        most: how many.
    """
    order_M = scores_M.argsort(descending=True, stable=True)
    documents_M = document_N[rows_M[order_M]].numpy()
    _, first = np.unique(documents_M, return_index=True)
    return order_M[torch.as_tensor(np.sort(first)[:most])]
