"""Measures of an autoencoder over held-out rows, as running sums in float64.

What a transcoder gives is measured against its target, an autoencoder's reconstructions against
the rows; x stands for either.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..kernels.codes import Codes
from .autoencoder import SparseAutoencoder
from .common.errors import InputError


class ReconstructionMetrics:
    """Running sums over batches of raw rows x; `result` turns them into measures.

    FVU = sum ||x - x_hat||^2 / sum ||x - mean||^2, with the mean row of everything seen; explained
    variance is 1 - FVU. Firing rates are per latent; a latent that never fired is dead here.
    epsilon-LBO, a lower bound on the dictionary's overlap (arXiv 2503.24277), is
    | ||x||^2 - ||f||^2 | / (c ||f||^2), with x less the decoder's center, in scaled units, and
    b_dec's norm appended to the codes f; the published constant c counts every latent (n_latents),
    the tighter one only the active (L0). A row with neither a code nor b_dec tells of no overlap
    and is left out.
    """

    def __init__(self, sae: SparseAutoencoder) -> None:
        self._sae = sae
        d_model, n_latents = sae.config.d_model, sae.config.n_latents
        self._rows = 0
        # Sums are of differences from the first row: exactly 0 where all rows are equal.
        self._first_D: Tensor | None = None
        self._sum_D = torch.zeros(d_model, dtype=torch.float64)
        self._squares = 0.0
        self._residual_squares = 0.0
        self._row_residual_squares: list[Tensor] = []
        self._fired_F = torch.zeros(n_latents, dtype=torch.int64)
        self._l0: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._epsilon_published: list[Tensor] = []
        self._epsilon_active: list[Tensor] = []

    @torch.no_grad()
    def update(
        self,
        x_BD: Float[Tensor, "B D"],
        target_BD: Float[Tensor, "B D"] | None = None,
        *,
        codes: Codes | None = None,
    ) -> None:
        """Add a batch of raw rows, of what a transcoder predicts from them, and the rows' codes
        where they are known.

        Raises ValueError if a transcoder has no target, or an autoencoder one.
        """
        sae = self._sae
        sae.require_target(target_BD)
        codes = sae.encode(x_BD) if codes is None else codes
        rows_BD = (x_BD if target_BD is None else target_BD).double()
        self._rows += len(x_BD)
        if self._first_D is None:
            self._first_D = rows_BD[0].clone()
        differences_BD = rows_BD - self._first_D
        self._sum_D += differences_BD.sum(0).cpu()
        self._squares += float(differences_BD.square().sum())
        residual_squares_BD = (rows_BD - sae.reconstruct(x_BD, codes).double()).square()
        self._residual_squares += float(residual_squares_BD.sum())
        self._row_residual_squares.append(residual_squares_BD.sum(-1).cpu())
        active_BM = codes.values > 0
        self._fired_F += torch.bincount(
            codes.indices[active_BM].cpu(), minlength=len(self._fired_F)
        )
        l0_B = active_BM.sum(-1).double().cpu()
        self._l0.append(l0_B)
        coded_rows_BD = rows_BD
        if codes.row_scale is not None:
            coded_rows_BD, _, _ = sae.normalized(rows_BD)
        scaled_BD = (coded_rows_BD - sae.decoder_center) * sae.decoder_scale.double()
        row_squares_B = scaled_BD.square().sum(-1).cpu()
        values_BM = codes.values.double() * sae.decoder_norms().double()[codes.indices]
        code_squares_B = (values_BM.square().sum(-1) + sae.b_dec.double().square().sum()).cpu()
        self._norms.append(torch.stack([row_squares_B, code_squares_B], dim=-1).sqrt())
        coded_B = code_squares_B > 0
        gap_B = (row_squares_B - code_squares_B)[coded_B].abs() / code_squares_B[coded_B]
        # The published code takes h - 1 with h latents; b_dec makes l0 + 1 active features.
        self._epsilon_published.append(gap_B / max(sae.config.n_latents - 1, 1))
        self._epsilon_active.append(gap_B / l0_B[coded_B].clamp(min=1))

    @property
    def fvu(self) -> float:
        """Fraction of variance unexplained of what was seen so far.

        Raises InputError if all rows are the same.
        """
        if not self._squares:
            raise InputError(
                f"the held-out rows measured, {self._rows}, are all the same, so that there is no "
                "variance to explain; measure more rows, or cache more text"
            )
        mean_squares = float(self._sum_D.square().sum()) / self._rows
        return self._residual_squares / (self._squares - mean_squares)

    def residual_squares(self) -> Float[Tensor, "N"]:
        """||x - x_hat||^2 of each row so far, float64."""
        return torch.cat(self._row_residual_squares)

    def firing_rates(self) -> Float[Tensor, "F"]:
        """Fraction of rows on which each latent was active, float64."""
        return self._fired_F.double() / self._rows

    def norms(self, limit: int) -> Float[Tensor, "N 2"]:
        """Norms of rows, less the decoder's center, and of their codes, b_dec's appended, in scaled
        units: the ZF plot of arXiv 2503.24277. Of more than `limit` rows as many, evenly spread;
        float64."""
        norms_N2 = torch.cat(self._norms)
        n_shown = min(limit, len(norms_N2))
        return norms_N2[torch.arange(n_shown) * len(norms_N2) // max(n_shown, 1)]

    def result(self) -> dict[str, float | int]:
        """The measures so far: fvu, explained_variance, l0 (mean), l0_std, dead_fraction,
        dense_fraction (active on over a tenth of the rows), and the medians epsilon_lbo (published
        constant) and epsilon_lbo_active, 0 where no row has a code.

        Raises InputError if all rows are the same.
        """
        rates_F = self.firing_rates()
        l0_N = torch.cat(self._l0)
        return {
            "rows": self._rows,
            "fvu": self.fvu,
            "explained_variance": 1 - self.fvu,
            "l0": float(l0_N.mean()),
            "l0_std": float(l0_N.std(correction=0)),
            "dead_fraction": float((rates_F == 0).double().mean()),
            "dense_fraction": float((rates_F > 0.1).double().mean()),
            "epsilon_lbo": _median(self._epsilon_published),
            "epsilon_lbo_active": _median(self._epsilon_active),
        }


def _median(parts: list[Tensor]) -> float:
    """Of an even number of values the mean of the middle two, which torch's median is not; of none
    0."""
    values_N = torch.cat(parts)
    return float(np.median(values_N.numpy())) if len(values_N) else 0.0


_ROWS_AT_ONCE = 4096


def measure_rows(
    sae: SparseAutoencoder,
    rows_ND: Float[Tensor, "N D"],
    target_ND: Float[Tensor, "N D"] | None = None,
    *,
    progress: Callable[[int], None] = lambda rows: None,
) -> ReconstructionMetrics:
    """The measures over raw rows, and what a transcoder predicts from them; `progress` is told the
    rows of each part."""
    measures = ReconstructionMetrics(sae)
    given = [rows_ND] if target_ND is None else [rows_ND, target_ND]
    for parts in zip(*(torch.split(rows, _ROWS_AT_ONCE) for rows in given), strict=True):
        measures.update(*(rows_BD.to(sae.W_dec.device) for rows_BD in parts))
        progress(len(parts[0]))
    return measures
