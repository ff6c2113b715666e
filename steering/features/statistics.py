"""How often and how strongly each latent fires, from sparse codes in one pass."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .windows import SortedCodes

_LOWEST_OCTAVE, _HIGHEST_OCTAVE = -12, 16
_FINE_BITS, _STORED_BITS = 5, 2
"""Bins an octave, as powers of two: 32 for percentiles, 4 in the stored histogram."""
_MANTISSA_BITS = 23
_EXPONENT_BIAS = 127


class LatentStatistics:
    """Counts, sums and fine histograms of positive activations, in the SAE's scaled units.

    Bins are 32 parts of equal width of each octave from 2^-12 to 2^16; smaller and larger
    activations count in the end bins. 3.6 kB a latent.

    Attributes:
        n_rows: rows counted, whether a latent fired on them or not.
        fired: int64 [F], rows on which the latent fired.  total: float64 [F], sum of activations.
        squares: float64 [F], sum of their squares.  largest: float32 [F].
    """

    def __init__(self, n_latents: int, device: str) -> None:
        n_bins = (_HIGHEST_OCTAVE - _LOWEST_OCTAVE) << _FINE_BITS
        self.n_rows = 0
        self.fired = torch.zeros(n_latents, dtype=torch.int64, device=device)
        self.total = torch.zeros(n_latents, dtype=torch.float64, device=device)
        self.squares = torch.zeros(n_latents, dtype=torch.float64, device=device)
        self.largest = torch.zeros(n_latents, device=device)
        self._fine_FB = torch.zeros(n_latents, n_bins, dtype=torch.int32, device=device)

    def add(self, activations: SortedCodes, n_rows: int) -> None:
        """Count the activations of `n_rows` more rows."""
        self.n_rows += n_rows
        n_latents, n_bins = self._fine_FB.shape
        latents, values = activations.latents, activations.values
        counts_F = torch.bincount(latents, minlength=n_latents)
        self.fired += counts_F
        # Sums of sorted segments: the same at every run, also on a GPU.
        wide = values.double()
        self.total += torch.segment_reduce(wide, "sum", lengths=counts_F, initial=0)
        self.squares += torch.segment_reduce(wide.square(), "sum", lengths=counts_F, initial=0)
        self.largest.scatter_reduce_(0, latents, values, "amax")
        slots = latents * n_bins + fine_bins(values)
        ones = torch.ones_like(slots, dtype=torch.int32)
        self._fine_FB.view(-1).scatter_add_(0, slots, ones)

    def state(self) -> dict[str, Tensor]:
        """The tensors that are summed up; `n_rows` is beside them."""
        names = ("fired", "total", "squares", "largest")
        return {**{name: getattr(self, name) for name in names}, "fine": self._fine_FB}

    def mean(self) -> Float[Tensor, "F"]:
        """Mean activation where the latent fires, float32; 0 if it never does."""
        return (self.total / self.fired.clamp(min=1)).float()

    def percentile(self, fraction: float) -> Float[Tensor, "F"]:
        """The activation that a fraction of the firings does not exceed, at most 1/32 off.

        It is in the bin of the ceil(fraction * fired)-th smallest activation, placed by the rank
        within that bin. float32 [F]; 0 for a latent that never fires.
        """
        cumulative_FB = self._fine_FB.cumsum(1, dtype=torch.int32)
        rank_F = (fraction * self.fired).ceil().int().clamp(min=1)
        bins_F = torch.searchsorted(cumulative_FB, rank_F[:, None])[:, 0]
        bins_F = bins_F.clamp(max=self._fine_FB.shape[1] - 1)
        inside_F = self._fine_FB.gather(1, bins_F[:, None])[:, 0].clamp(min=1)
        below_F = cumulative_FB.gather(1, bins_F[:, None])[:, 0] - inside_F
        low_F, high_F = _edges(bins_F), _edges(bins_F + 1)
        fraction_F = (rank_F - below_F - 0.5) / inside_F
        value_F = (low_F + (high_F - low_F) * fraction_F).minimum(self.largest)
        return value_F.masked_fill(self.fired == 0, 0)

    def groups(
        self, n_groups: int
    ) -> tuple[Float[Tensor, "F G1"], Int[Tensor, "F G1"], Int[Tensor, "F G"]]:
        """Cut the firings of each latent into groups of about equal size, by activation.

        A cut is where a bin begins, so that it is known exactly how many firings are below it: the
        first bin before which there are at least g / n_groups of them. Firings of one bin are never
        parted, so a group may have more than its part, and the next one less or none.

        Returns:
            Bounds (float32) from 0, upwards, to the largest activation; the bins at which the
            groups begin and the last one ends; firings in each group.
        """
        device = self.fired.device
        cumulative_FB = self._fine_FB.cumsum(1, dtype=torch.int32)
        parts_G = torch.arange(n_groups + 1, device=device)
        ranks_FG = (self.fired[:, None] * parts_G + n_groups - 1) // n_groups
        first_FG = torch.searchsorted(cumulative_FB, ranks_FG.int()) + 1
        first_FG[:, 0], first_FG[:, -1] = 0, self._fine_FB.shape[1]
        below_FG = cumulative_FB.gather(1, (first_FG - 1).clamp(min=0)).long()
        below_FG[:, 0] = 0
        bounds_FG = _edges(first_FG)
        bounds_FG[:, 0], bounds_FG[:, -1] = 0, self.largest
        return bounds_FG.minimum(self.largest[:, None]), first_FG, below_FG.diff(dim=1)

    def histogram(self) -> tuple[Float[Tensor, "H1"], Int[Tensor, "F H"]]:
        """Edges (float32) and counts (int64) of the firings, four bins an octave.

        Bins that are empty for all latents at either end are left out.
        """
        n_latents = len(self.fired)
        joined = 1 << (_FINE_BITS - _STORED_BITS)
        counts_FH = self._fine_FB.view(n_latents, -1, joined).sum(-1)
        used = counts_FH.any(0).nonzero()[:, 0]
        first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
        edges = _edges(torch.arange(first, last + 2) * joined)
        return edges, counts_FH[:, first : last + 1]


def fine_bins(values: Float[Tensor, "*X"]) -> Int[Tensor, "*X"]:
    """The bin of each positive activation: exponent and leading bits of the mantissa."""
    bits = values.view(torch.int32) >> (_MANTISSA_BITS - _FINE_BITS)
    lowest = (_EXPONENT_BIAS + _LOWEST_OCTAVE) << _FINE_BITS
    n_bins = (_HIGHEST_OCTAVE - _LOWEST_OCTAVE) << _FINE_BITS
    return (bits - lowest).clamp(0, n_bins - 1).long()


def _edges(bins: Int[Tensor, "*X"]) -> Float[Tensor, "*X"]:
    """The lower edge of each bin."""
    lowest = (_EXPONENT_BIAS + _LOWEST_OCTAVE) << _FINE_BITS
    return ((bins + lowest) << (_MANTISSA_BITS - _FINE_BITS)).to(torch.int32).view(torch.float32)
