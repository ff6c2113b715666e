"""The codes of texts, pooled to one value for each text and latent, and kept sparse."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ....kernels.codes import Codes, COOEntries


class PooledText(NamedTuple):
    """Of one text the latents that fire in it, or the coordinates of its activation."""

    columns: Int[Tensor, "E"]
    """In rising order."""
    values: Float[Tensor, "E"]


@dataclass(frozen=True, eq=False)
class PooledCodes:
    """One value for each text and latent that fires in it, on the CPU in float64."""

    entries: COOEntries
    """By text (`rows`), then latent (`columns`)."""
    n_texts: int
    n_latents: int

    def mean_differences(
        self, labels_N: Bool[Tensor, "N"], training_N: Bool[Tensor, "N"]
    ) -> Float[Tensor, "F"]:
        """Mean value over the training texts with the second label, less that over those with the
        first; nothing of the other texts is looked at."""
        weights_N = torch.zeros(self.n_texts, dtype=torch.float64)
        for label, sign in ((True, 1.0), (False, -1.0)):
            of_label_N = training_N & (labels_N == label)
            weights_N[of_label_N] = sign / max(1, int(of_label_N.sum()))
        rows, columns, values = self.entries
        sums_F = torch.zeros(self.n_latents, dtype=torch.float64)
        return sums_F.index_add_(0, columns, values * weights_N[rows])

    def firing(self, training_N: Bool[Tensor, "N"]) -> Int[Tensor, "M"]:
        """The latents that fire in a training text, in rising order."""
        columns = self.entries.columns[training_N[self.entries.rows]]
        return torch.bincount(columns, minlength=self.n_latents).nonzero()[:, 0]

    def columns(self, latents_K: Int[Tensor, "K"]) -> Float[Tensor, "N K"]:
        """The values of a few different latents as a dense matrix, a column each, in their
        order."""
        rows, columns, values = self.entries
        column_of_F = torch.full((self.n_latents,), -1)
        column_of_F[latents_K] = torch.arange(len(latents_K))
        places = column_of_F[columns]
        wanted = places >= 0
        dense_NK = torch.zeros(self.n_texts, len(latents_K), dtype=torch.float64)
        dense_NK[rows[wanted], places[wanted]] = values[wanted]
        return dense_NK


def pool_codes(
    codes: Codes, lengths: Sequence[int], norms_F: Float[Tensor, "F"], *, last: bool
) -> list[PooledText]:
    """The latents of each text with their pooled values, which are above 0.

    Args:
        codes: of the content tokens of all texts, one text after the other.
        lengths: content tokens of each text, at least 1.
        norms_F: the decoder's row norms, by which values are multiplied: what a latent adds to the
            reconstruction does not change if its encoder is doubled and its decoder halved.
        last: whether to take the value at the last token, else the mean over all.
    """
    indices_CM, values_CM = codes.indices.cpu(), codes.values.detach().cpu().double()
    found: list[PooledText] = []
    end = 0
    for length in lengths:
        rows = slice(end + length - 1 if last else end, end + length)
        end += length
        sums_F = torch.bincount(
            indices_CM[rows].flatten(), values_CM[rows].flatten(), minlength=len(norms_F)
        )
        latents_E = sums_F.nonzero()[:, 0]
        means_E = sums_F[latents_E] / (1 if last else length)
        found.append(PooledText(latents_E, means_E * norms_F[latents_E]))
    return found


def join_texts(texts: Sequence[PooledText], n_latents: int) -> PooledCodes:
    """The pooled codes of texts, numbered in their order, of which there is at least one."""
    counts = torch.tensor([len(text.columns) for text in texts])
    rows = torch.repeat_interleave(torch.arange(len(texts)), counts)
    columns = torch.cat([text.columns for text in texts])
    values = torch.cat([text.values for text in texts])
    return PooledCodes(COOEntries(rows, columns, values), len(texts), n_latents)
