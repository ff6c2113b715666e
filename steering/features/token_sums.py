"""How much of a latent's activation the token alone explains, from sums for each latent and token.

A one-way analysis of variance over all rows, zeros included, with the rows' tokens as groups:
omega squared = (SSB - (T - 1) * MSW) / (SST + MSW), with SSB the sum of squares between the T
tokens, SST the total one and MSW = (SST - SSB) / (N - T) over N rows.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .runs import run_lengths
from .statistics import LatentStatistics
from .windows import SortedCodes

_TOKEN_BITS = 32
_LATENTS_AT_ONCE = 4096


class TokenSums:
    """Sums of activations for each latent and token; those of a shard at a time are in memory.

    Attributes:
        counts: int64 [V], rows of each token, as far as there were any.
    """

    def __init__(self, device: str) -> None:
        self.counts = torch.zeros(0, dtype=torch.int64, device=device)
        self._parts: list[tuple[Tensor, Tensor]] = []

    def add(self, activations: SortedCodes, tokens_R: Tensor, kept_R: Tensor) -> None:
        """Count the tokens of the rows that count, and sum their activations."""
        rows_V = torch.bincount(tokens_R[kept_R], minlength=len(self.counts))
        rows_V[: len(self.counts)] += self.counts
        self.counts = rows_V
        keys_E = (activations.latents << _TOKEN_BITS) | tokens_R[activations.rows]
        self._parts.append(_summed(keys_E, activations.values.double()))

    def take_shard(self, n_latents: int) -> dict[str, np.ndarray]:
        """The sums since the last call, sorted by latent and token: where the tokens of each latent
        begin [F + 1], tokens and sums."""
        none = self.counts.new_zeros(0)
        keys_E, sums_E = _summed(
            torch.cat([none, *(keys for keys, _ in self._parts)]),
            torch.cat([none.double(), *(sums for _, sums in self._parts)]),
        )
        self._parts = []
        latents_E = keys_E >> _TOKEN_BITS
        starts_F = torch.searchsorted(latents_E, torch.arange(n_latents + 1, device=keys_E.device))
        tokens_E = (keys_E & ((1 << _TOKEN_BITS) - 1)).int()
        arrays = {"token_starts": starts_F, "tokens": tokens_E, "token_sums": sums_E}
        return {name: array.cpu().numpy() for name, array in arrays.items()}


def _summed(keys_E: Tensor, values_E: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct keys in order with the sums of their values, added up in the order given."""
    keys_E, order_E = keys_E.sort(stable=True)
    distinct_G, counts_G = run_lengths(keys_E)
    sums_G = torch.segment_reduce(values_E[order_E], "sum", lengths=counts_G, initial=0)
    return distinct_G, sums_G


def token_explained(
    read: Callable[[int, str], np.ndarray],
    n_shards: int,
    statistics: LatentStatistics,
    counts_V: Int[Tensor, "V"],
) -> Float[np.ndarray, "F"]:
    """Omega squared of each latent, 0 to 1; 0 where nothing varies, or every token is another.

    Args:
        read: gives an array that `take_shard` made, by the number of the shard and its name.
        n_shards: how many there are.
        statistics: of the same rows.
        counts_V: rows of each token.
    """
    n_latents = len(statistics.fired)
    counts = counts_V.cpu().double().numpy()
    between = np.zeros(n_latents)
    for first in range(0, n_latents, _LATENTS_AT_ONCE):
        last = min(first + _LATENTS_AT_ONCE, n_latents)
        keys: list[Tensor] = []
        sums: list[Tensor] = []
        for shard in range(n_shards):
            starts = np.asarray(read(shard, "token_starts")[first : last + 1])
            latents = np.repeat(np.arange(last - first), np.diff(starts))
            part = slice(int(starts[0]), int(starts[-1]))
            tokens = np.asarray(read(shard, "tokens")[part]).astype(np.int64)
            keys.append(torch.as_tensor((latents << _TOKEN_BITS) | tokens))
            sums.append(torch.as_tensor(np.array(read(shard, "token_sums")[part])))
        keys_E, sums_E = _summed(torch.cat(keys), torch.cat(sums))
        tokens = (keys_E & ((1 << _TOKEN_BITS) - 1)).numpy()
        squares = sums_E.numpy() ** 2 / counts[tokens]
        latents = (keys_E >> _TOKEN_BITS).numpy()
        between[first:last] = np.bincount(latents, squares, minlength=last - first)
    return _omega_squared(between, statistics, int((counts > 0).sum()))


def _omega_squared(
    between: Float[np.ndarray, "F"], statistics: LatentStatistics, n_tokens: int
) -> Float[np.ndarray, "F"]:
    """From sum over tokens of (sum of activations)^2 / rows, not yet less the mean's part."""
    n_rows = statistics.n_rows
    if n_rows <= n_tokens:
        return np.zeros(len(between))
    squares, total = statistics.squares.cpu().numpy(), statistics.total.cpu().numpy()
    of_mean = total**2 / max(n_rows, 1)
    all_squares = squares - of_mean
    between = between - of_mean
    within = (all_squares - between).clip(min=0) / (n_rows - n_tokens)
    varies = (squares > 0) & (all_squares + within > 0)
    explained = np.zeros(len(between))
    np.divide(between - (n_tokens - 1) * within, all_squares + within, out=explained, where=varies)
    return explained.clip(0, 1)
