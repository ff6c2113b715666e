"""Whether dictionaries trained from different seeds have the same latents.

Two runs that differ by the seed alone share part of their latents only (arXiv 2501.16615): what a
single dictionary shows need not be in the model.
"""

import math
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ....sae.autoencoder import SparseAutoencoder
from ....sae.common.errors import InputError
from .matching import matched_rows, nearest_rows
from .summaries import mean_with_interval

SHARES = (0.7, 0.9)
"""Cosines above which latents are counted as found again."""

_RANDOM_ROWS = 2048


def agreement_of_decoders(one: SparseAutoencoder, other: SparseAutoencoder) -> float:
    """The mean over the latents of one of the largest cosine with a decoder row of the other."""
    return float(nearest_rows(one.W_dec, other.W_dec)[0].double().mean())


def stability(
    saes: Sequence[SparseAutoencoder],
    masses: Sequence[Float[Tensor, "_"] | None] | None = None,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """How far dictionaries of one site have the same decoder rows, of every pair in either order.

    Args:
        saes: two or more, such as runs of several seeds; widths may differ.
        masses: of each autoencoder the sum of every latent's activations on some text, see
            `firing_mass`, or None. Latents of mass 0, which never fired, are then left out on both
            sides, and the weighted figures are there.
        seed: of the random directions that the figures are held against.

    Returns:
        `pairs`: for each the numbers `one` and `other` of the autoencoders and, of the `latents` of
        one, for `nearest`, the largest cosine with a row of the other, and `matched`, the cosine
        where each row of the other is given to one latent only (see `matched_rows`): `mean` with
        `low` and `high`, `above` (parts of the latents above 0.7 and 0.9), and both again weighted
        by mass, `weighted_mean` and `weighted_above`, None without masses; and `random_nearest`,
        the mean largest cosine that random directions have with as many random directions. `mean`:
        the same over all pairs, `standard_deviation` between them, which counts seeds where `low`
        and `high` count latents only.

    Raises:
        InputError: there are fewer than two, their widths of activation differ, or no latent of one
            fired.
    """
    _require_comparable(saes)
    given = list(masses) if masses is not None else [None] * len(saes)
    rows = [_alive(sae, mass, n) for n, (sae, mass) in enumerate(zip(saes, given, strict=True))]
    chance: dict[tuple[int, int], float] = {}
    pairs: list[dict[str, Any]] = []
    for one, other in permutations(range(len(saes)), 2):
        (one_FD, mass_F), (other_GD, _) = rows[one], rows[other]
        shape = other_GD.shape[0], other_GD.shape[1]
        if shape not in chance:
            chance[shape] = random_nearest(*shape, seed=seed)
        pairs.append(
            {
                "one": one,
                "other": other,
                "latents": len(one_FD),
                "nearest": _figures(nearest_rows(one_FD, other_GD)[0][:, 0], mass_F),
                "matched": _figures(matched_rows(one_FD, other_GD)[0], mass_F),
                "random_nearest": chance[shape],
            }
        )
    return {
        "pairs": pairs,
        **{kind: _over_pairs([pair[kind] for pair in pairs]) for kind in ("nearest", "matched")},
    }


@torch.no_grad()
def firing_mass(sae: SparseAutoencoder, rows_ND: Float[Tensor, "N D"]) -> Float[Tensor, "F"]:
    """The sum of each latent's activations over raw rows, times the norm of its decoder row, in
    scaled units; float64 on the CPU."""
    mass_F = torch.zeros(sae.config.n_latents, dtype=torch.float64)
    for x_BD in torch.split(rows_ND, 2048):
        codes = sae.encode(x_BD.to(sae.W_dec.device))
        mass_F.index_add_(0, codes.indices.flatten().cpu(), codes.values.flatten().double().cpu())
    return mass_F * sae.decoder_norms().double().cpu()


def random_nearest(n_rows: int, width: int, *, seed: int) -> float:
    """The mean largest cosine of a random direction with so many others, uniform on the sphere; of
    2,048 at most."""
    generator = torch.Generator().manual_seed(seed)
    others_GD = torch.randn(n_rows, width, generator=generator)
    some_FD = torch.randn(min(n_rows, _RANDOM_ROWS), width, generator=generator)
    return float(nearest_rows(some_FD, others_GD)[0].double().mean())


def _require_comparable(saes: Sequence[SparseAutoencoder]) -> None:
    if len(saes) < 2:
        raise InputError(
            f"stability compares two autoencoders or more, and {len(saes)} is given; give runs of "
            "several seeds"
        )
    widths = {sae.config.d_model for sae in saes}
    if len(widths) > 1:
        shown = " and ".join(map(str, sorted(widths)))
        raise InputError(
            f"the autoencoders write activations of widths {shown}, which do not compare; give "
            "those of one site"
        )


def _alive(
    sae: SparseAutoencoder, mass_F: Tensor | None, number: int
) -> tuple[Float[Tensor, "F D"], Float[Tensor, "F"] | None]:
    W_dec = sae.W_dec.detach()
    if mass_F is None:
        return W_dec, None
    fires_F = mass_F > 0
    if not fires_F.any():
        raise InputError(
            f"no latent of autoencoder {number} fired, counted from 0; measure more rows"
        )
    return W_dec[fires_F.to(W_dec.device)], mass_F[fires_F]


def _figures(cosines_F: Float[Tensor, "F"], mass_F: Float[Tensor, "F"] | None) -> dict[str, Any]:
    cosines_F = cosines_F.double().cpu()
    found: dict[str, Any] = mean_with_interval(cosines_F)
    del found["count"]
    found["above"] = {f"{least}": float((cosines_F > least).double().mean()) for least in SHARES}
    weights_F = None if mass_F is None else mass_F.double() / mass_F.double().sum()
    found["weighted_mean"] = None if weights_F is None else float((weights_F * cosines_F).sum())
    found["weighted_above"] = (
        None
        if weights_F is None
        else {f"{least}": float(weights_F[cosines_F > least].sum()) for least in SHARES}
    )
    return found


def _over_pairs(figures: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    means = [figure["mean"] for figure in figures]
    mean = math.fsum(means) / len(means)
    squares = math.fsum((value - mean) ** 2 for value in means)
    weighted = [figure["weighted_mean"] for figure in figures]
    return {
        "mean": mean,
        "standard_deviation": math.sqrt(squares / (len(means) - 1)),
        "weighted_mean": None if None in weighted else math.fsum(weighted) / len(weighted),
        **{
            f"above_{least}": math.fsum(f["above"][f"{least}"] for f in figures) / len(figures)
            for least in SHARES
        },
    }
