"""Where in a text a row stands, as a vector: the language model's hidden states around it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ....sae.language_model.model import LanguageModel
from ...data.cache.held_out_rows import HeldOutRows

_CONTEXTS_AT_ONCE = 8
_ROWS_FOR_SCALE = 16_384
_RIDGE = 0.01
"""Of the mean eigenvalue, added to the covariance: directions with next to no variance would
otherwise count as much as any other."""


@dataclass(frozen=True)
class RowRanges:
    """For each row the rows around it: those from `first` to before `end`, itself among them."""

    first: Int[Tensor, "N"]
    end: Int[Tensor, "N"]

    def part(self, place: slice) -> "RowRanges":
        """Of some rows."""
        return RowRanges(self.first[place], self.end[place])


def rows_around(rows: HeldOutRows, before: int, after: int) -> RowRanges:
    """The rows of the same document and context from so many before each row to so many after it.

    Rows are counted, not tokens: what the cache leaves out, such as BOS, is skipped.
    """
    n_rows = len(rows.context)
    begins_N = torch.ones(n_rows, dtype=torch.bool)
    for column_N in (rows.context, rows.document):
        begins_N[1:] &= column_N[1:] == column_N[:-1]
    begins_N[1:] = ~begins_N[1:]
    starts_G = begins_N.nonzero()[:, 0]
    ends_G = torch.cat([starts_G[1:], starts_G.new_full((min(n_rows, 1),), n_rows)])
    segment_N = begins_N.cumsum(0) - 1
    number_N = torch.arange(n_rows)
    return RowRanges(
        torch.maximum(number_N - before, starts_G[segment_N]),
        torch.minimum(number_N + after + 1, ends_G[segment_N]),
    )


def mean_around(
    values_RD: Float[Tensor, "R D"], ranges: RowRanges, *, first_row: int
) -> Float[Tensor, "R D"]:
    """The mean of a vector over the rows around each row, itself left out, float32.

    Args:
        values_RD: of consecutive rows, which hold all the rows around them.
        ranges: of these rows, in the numbers of all rows.
        first_row: the number of the first of them.

    Returns:
        0 for a row that is alone.
    """
    wide_RD = values_RD.double()
    sums_RD = torch.nn.functional.pad(wide_RD.cumsum(0), (0, 0, 1, 0))
    first_R, end_R = ranges.first - first_row, ranges.end - first_row
    others_R1 = rearrange(end_R - first_R - 1, "r -> r 1")
    mean_RD = (sums_RD[end_R] - sums_RD[first_R] - wide_RD) / others_R1.clamp(min=1)
    return mean_RD.masked_fill(others_R1 == 0, 0).float()


@torch.no_grad()
def window_embeddings(
    model: LanguageModel,
    site: str,
    rows: HeldOutRows,
    *,
    before: int,
    after: int,
    seed: int,
    progress: Callable[[int], None] = lambda tokens: None,
) -> Float[Tensor, "N H"]:
    """A unit vector for the text around each row: the mean hidden state of the rows around it.

    The row itself is left out, so that its own token is not compared with itself; it does change
    the rows behind it, through attention. The means are centered and whitened by the covariance of
    random rows' means, as a few directions of large variance would otherwise decide every cosine.

    Args:
        model: the language model.
        site: whose activations are averaged.
        rows: whole contexts.
        before, after: how many rows on each side count.
        seed: of the random rows.
        progress: told the tokens of each forward pass, padding included.

    Returns:
        float16 [N, H] on the CPU; 0 for a row that is alone in its document and context.
    """
    place = model.fastest([site]).site(site)
    ranges = rows_around(rows, before, after)
    starts_C = torch.searchsorted(rows.context, torch.arange(len(rows.contexts) + 1))
    means: list[Tensor] = []
    for first in range(0, len(rows.contexts), _CONTEXTS_AT_ONCE):
        last = min(first + _CONTEXTS_AT_ONCE, len(rows.contexts))
        tokens_BL, mask_BL = rows.contexts[first:last], rows.mask[first:last]
        part = slice(int(starts_C[first]), int(starts_C[last]))
        states_BLH = place.read(tokens_BL, mask_BL).cpu()
        states_RH = states_BLH[rows.context[part] - first, rows.offset[part]]
        means.append(mean_around(states_RH, ranges.part(part), first_row=part.start))
        progress(tokens_BL.numel())
    means_NH = torch.cat(means)
    alone_N = ranges.end - ranges.first == 1
    return _whitened(means_NH, alone_N | ~rows.kept, seed).masked_fill(alone_N[:, None], 0)


def _whitened(means_NH: Float[Tensor, "N H"], excluded_N: Tensor, seed: int) -> Tensor:
    """Unit vectors of the means, whitened by those of random rows."""
    usable_N = (~excluded_N).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    chosen = usable_N[torch.randperm(len(usable_N), generator=generator)[:_ROWS_FOR_SCALE]]
    some_MH = means_NH[chosen].double()
    center_H = some_MH.mean(0)
    centered_MH = some_MH - center_H
    covariance_HH = centered_MH.T @ centered_MH / max(len(chosen) - 1, 1)
    ridge = _RIDGE * float(covariance_HH.diagonal().mean()) or 1.0
    covariance_HH.diagonal().add_(ridge)
    # x L^-T has the identity as covariance where L L^T is that of x.
    factor_HH = np.linalg.cholesky(covariance_HH.numpy())
    inverse_HH = torch.as_tensor(np.linalg.inv(factor_HH).T).float()
    blocks = torch.split(means_NH, _ROWS_FOR_SCALE)
    return torch.cat(
        [
            torch.nn.functional.normalize(
                (part.float() - center_H.float()) @ inverse_HH, dim=-1
            ).half()
            for part in blocks
        ]
    )
