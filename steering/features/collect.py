"""The one pass over an activation cache that gathers what is known of every latent.

Codes stay sparse. In memory are, beside the rows of a chunk: for each latent 3.6 kB of histogram
and 8 * window + 44 bytes of each example (`top`, `sample` and `near` ones), once more half of
that for the 2,048 latents that are merged at a time, and the codes of 8,192 rows. What grows with
the cache, sums for each token and who fires together, is written down for each shard.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ...kernels.codes import Codes
from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.memory import require_memory
from .coactivation import FiringRows
from .config import BuildConfig
from .hashing import priorities
from .near_misses import NearMisses, why_none
from .quantiles import SAMPLED_FOR_EACH
from .statistics import LatentStatistics
from .tables import Candidates, ExampleTable, one_per_context
from .token_sums import TokenSums
from .windows import CacheChunk, SortedCodes, windows

ROWS_AT_ONCE = 8192
_ENCODED_AT_ONCE = 2048

Parts = list[tuple[Int[Tensor, "B"], Codes]]
"""Codes of some rows of a chunk, in order, with the rows' numbers in it."""


class Collector:
    """What the pass gathers of F latents, chunk by chunk.

    Attributes:
        statistics: of the rows that count.
        top: largest activations, one for each context and none with the same window as another.
        sample: a uniform sample of the activations; scores are random numbers.
        near: largest pre-activations that were not kept, or None.
        tokens: rows of each token.
        firing: which rows were written down.
        special: int64 [F], firings at special tokens.  sinks: int64 [F], firings in rows that do
            not count, for their outlying norm.
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        config: BuildConfig,
        *,
        total_rows: int = 0,
        special_ids: list[int] | None = None,
    ) -> None:
        """For an autoencoder on the chunks' device; the examples do not depend on how rows are cut
        into chunks.

        Args:
            sae: the autoencoder.
            config: how much to keep.
            total_rows: of the pass, about.
            special_ids: tokens that are special.

        Raises:
            InputError: no memory holds so many examples.
        """
        self._sae, self._config = sae, config
        n_latents, device = sae.config.n_latents, str(sae.W_dec.device)
        window = config.before + 1 + config.after
        wanted = SAMPLED_FOR_EACH * config.quantiles * config.quantile_examples
        n_sampled = max(config.examples, wanted)
        n_near = 0 if why_none(sae) else config.near_misses
        require_memory(
            8 * n_latents * (config.examples + n_sampled + n_near) * window,
            f"examples is {config.examples}, before {config.before} and after {config.after}, "
            "which take",
            "lower one of these",
            field="examples",
        )

        def table(n_examples: int, dtype: torch.dtype, *, distinct: bool) -> ExampleTable:
            shape = (n_latents, n_examples, window)
            return ExampleTable(*shape, score_dtype=dtype, distinct=distinct, device=device)

        self.statistics = LatentStatistics(n_latents, device)
        self.top = table(config.examples, torch.float32, distinct=True)
        self.sample = table(n_sampled, torch.int64, distinct=False)
        self.near = table(n_near, torch.float32, distinct=True) if n_near else None
        self.tokens = TokenSums(device)
        self.firing = FiringRows(total_rows, config.seed) if config.coactivating else None
        self.special = torch.zeros(n_latents, dtype=torch.int64, device=device)
        self.sinks = torch.zeros(n_latents, dtype=torch.int64, device=device)
        self._special_ids = torch.tensor(special_ids or [], dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, chunk: CacheChunk) -> None:
        """Encode a chunk once and gather what it has of every latent."""
        parts = encoded(self._sae, chunk, chunk.kept)
        activations = SortedCodes(parts, len(chunk.rows_RD))
        tokens_R = chunk.tokens
        self.statistics.add(activations, int(chunk.kept.sum()))
        self.tokens.add(activations, tokens_R, chunk.kept)
        if self.firing is not None:
            self.firing.add(activations, chunk.first_row)
        around = windows(chunk, self._config.before, self._config.after)
        latents, rows = activations.latents, activations.rows
        fired = Candidates(latents, rows, activations.values)
        self.top.offer(one_per_context(fired, chunk.context), chunk, around, activations)
        numbers = priorities(latents, rows + chunk.first_row, self._config.seed)
        self.sample.offer(Candidates(latents, rows, numbers), chunk, around, activations)
        if self.near is not None:
            NearMisses(self._sae, self.near).add(chunk, parts, around, activations)
        self._count_special(chunk, activations, tokens_R)

    def take_shard(self) -> dict[str, np.ndarray]:
        """What grows with the cache, of the chunks since the last call."""
        arrays = self.tokens.take_shard(len(self.special))
        return arrays | (self.firing.take_shard() if self.firing is not None else {})

    def _count_special(
        self, chunk: CacheChunk, activations: SortedCodes, tokens_R: Int[Tensor, "R"]
    ) -> None:
        n_latents = len(self.special)
        if len(self._special_ids):
            is_special_R = torch.isin(tokens_R, self._special_ids)
            at_special = activations.latents[is_special_R[activations.rows]]
            self.special += torch.bincount(at_special, minlength=n_latents)
        if not chunk.kept.all():
            outlying = SortedCodes(encoded(self._sae, chunk, ~chunk.kept), len(chunk.rows_RD))
            self.sinks += torch.bincount(outlying.latents, minlength=n_latents)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Numbers and tensors from which `restore` goes on, between shards."""
        tables = {"top": self.top, "sample": self.sample, "near": self.near}
        tensors = {
            f"{kind}_{name}": tensor
            for kind, table in tables.items()
            if table is not None
            for name, tensor in table.state().items()
        }
        tensors |= {f"statistics_{name}": t for name, t in self.statistics.state().items()}
        tensors |= {"special": self.special, "sinks": self.sinks, "counts": self.tokens.counts}
        one_in = None if self.firing is None else self.firing.one_in
        return {"rows": self.statistics.n_rows, "one_in": one_in}, tensors

    def restore(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Go on from a state of the same settings."""
        self.tokens.counts = tensors["counts"].clone().to(self.special.device)
        for name, tensor in self.state()[1].items():
            tensor.copy_(tensors[name])
        self.statistics.n_rows = numbers["rows"]
        if self.firing is not None:
            self.firing.one_in = numbers["one_in"]


def encoded(sae: SparseAutoencoder, chunk: CacheChunk, which_R: Tensor) -> Parts:
    """The codes of some rows of a chunk, a mask."""
    numbers_R = which_R.nonzero()[:, 0]
    return [
        (numbers_B, sae.encode(chunk.rows_RD[numbers_B]))
        for numbers_B in torch.split(numbers_R, _ENCODED_AT_ONCE)
    ]
