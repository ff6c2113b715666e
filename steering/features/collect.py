"""The one pass over an activation cache that gathers examples and statistics of every latent.

Codes stay sparse. In memory are, beside one shard: for each latent 3.6 kB of histogram and
2 * examples * (8 * window + 40) bytes of examples, once more half of that for the 4,096 latents
that are merged at a time, and the codes of 8,192 rows.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.memory import require_memory
from .hashing import priorities
from .statistics import LatentStatistics
from .tables import Candidates, ExampleTable, one_per_context
from .windows import CacheChunk, SortedCodes, windows

ROWS_AT_ONCE = 8192
_ENCODED_AT_ONCE = 2048


@dataclass(frozen=True)
class Collected:
    """What the pass gathers of F latents."""

    statistics: LatentStatistics
    top: ExampleTable
    """The largest activations, one for each context and none with the same window as another."""
    random: ExampleTable
    """A uniform sample of the activations; scores are random numbers."""


@torch.no_grad()
def collect(
    sae: SparseAutoencoder,
    chunks: Iterable[CacheChunk],
    *,
    examples: int,
    before: int,
    after: int,
    seed: int,
    progress: Callable[[int], None] = lambda rows: None,
) -> Collected:
    """Encode the chunks once and gather statistics, top and random examples of every latent.

    Args:
        sae: the autoencoder, on the chunks' device.
        chunks: parts of the cache in order.
        examples: N, examples of each kind for each latent.
        before, after: tokens of a window on both sides of the activating one.
        seed: of the random examples; they do not depend on how rows are cut into chunks.
        progress: told the number of rows after each chunk.

    Raises:
        InputError: no memory holds so many examples.
    """
    n_latents, device = sae.config.n_latents, str(sae.W_dec.device)
    window = before + 1 + after
    require_memory(
        2 * 8 * n_latents * examples * window,  # a token and an activation, of either kind
        f"examples is {examples}, before {before} and after {after}, which take",
        "lower one of these",
        field="examples",
    )
    shape = (n_latents, examples, window)
    collected = Collected(
        LatentStatistics(n_latents, device),
        ExampleTable(*shape, score_dtype=torch.float32, distinct=True, device=device),
        ExampleTable(*shape, score_dtype=torch.int64, distinct=False, device=device),
    )
    for chunk in chunks:
        activations = encoded(sae, chunk)
        collected.statistics.add(activations, int(chunk.kept.sum()))
        around = windows(chunk, before, after)
        peaks = one_per_context(activations, chunk.context)
        collected.top.offer(peaks, chunk, around, activations)
        latents, rows = activations.latents, activations.rows
        drawn = Candidates(latents, rows, priorities(latents, rows + chunk.first_row, seed))
        collected.random.offer(drawn, chunk, around, activations)
        progress(len(chunk.rows_RD))
    return collected


def encoded(sae: SparseAutoencoder, chunk: CacheChunk) -> SortedCodes:
    """The nonzero codes of the rows of a chunk that count."""
    numbers_R = chunk.kept.nonzero()[:, 0]
    parts = [
        (numbers_B, sae.encode(chunk.rows_RD[numbers_B]))
        for numbers_B in torch.split(numbers_R, _ENCODED_AT_ONCE)
    ]
    return SortedCodes(parts, len(chunk.rows_RD))
