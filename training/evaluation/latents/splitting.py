"""Feature splitting: how the latents of a small dictionary come back in a larger one.

In a larger dictionary one latent may stand in several parts, each of which fires on some of what
the one fired on (Towards Monosemanticity, Bricken et al. 2023).
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ....sae.autoencoder import SparseAutoencoder
from ....sae.common.errors import InputError
from .matching import nearest_rows
from .prefix_view import PrefixView
from .summaries import summary

_ROWS_AT_ONCE = 2048


@torch.no_grad()
def splitting(
    small: SparseAutoencoder,
    large: SparseAutoencoder,
    rows_ND: Float[Tensor, "N D"],
    *,
    least_cosine: float = 0.5,
    seed: int = 0,
) -> dict[str, Any]:
    """Which latents of the larger dictionary are parts of which of the smaller.

    A latent of the larger is a part of the one of the smaller whose decoder row is nearest to its
    own, if their cosine is at least `least_cosine`. Directions alone do not say that it fires on
    some of the same: `contained` does.

    Args:
        small, large: two autoencoders of one site, or a prefix (`PrefixView`) and the whole of a
            nested one, of which only the latents behind the prefix count then.
        rows_ND: raw rows, on which latents must fire to count.
        least_cosine: of a part; 0.5 as a default, which nothing derives.
        seed: of what `contained` is held against.

    Returns:
        `parents` and `children`: latents of the small and of the large one that fire; `found`: the
        fraction of the children that are a part of a parent; `cosine`, the largest of each child;
        `parents_with`: fractions of the parents with 0, 1, 2, 3 and 4 or more parts; `contained`:
        of each part the fraction of its firings at which its parent fires, too, and
        `contained_by_chance`, with the parents of all parts shuffled. The last three each as
        `summary` gives them.

    Raises:
        InputError: the widths differ, or no latent of one fires.
    """
    if small.config.d_model != large.config.d_model:
        raise InputError(
            f"the autoencoders write activations of widths {small.config.d_model} and "
            f"{large.config.d_model}, which do not compare; give those of one site"
        )
    parents, children = (_firing_latents(sae, rows_ND) for sae in (small, large))
    if isinstance(small, PrefixView) and small.whole is large:
        children = children[children >= small.config.n_latents]
    cosines_C1, nearest_C1 = nearest_rows(large.W_dec[children], small.W_dec[parents])
    cosines_C, nearest_C = cosines_C1[:, 0].double().cpu(), nearest_C1[:, 0].cpu()
    is_part_C = cosines_C >= least_cosine
    counts_P = torch.bincount(nearest_C[is_part_C], minlength=len(parents))
    parts = children[is_part_C]
    of_parts = parents[nearest_C[is_part_C]]
    generator = torch.Generator().manual_seed(seed)
    shuffled = of_parts[torch.randperm(len(of_parts), generator=generator)]
    inside, by_chance = _contained(small, large, rows_ND, parts, (of_parts, shuffled))
    with_parts = {f"{n}": float((counts_P == n).double().mean()) for n in range(4)}
    return {
        "parents": len(parents),
        "children": len(children),
        "least_cosine": least_cosine,
        "found": float(is_part_C.double().mean()),
        "cosine": summary(cosines_C),
        "parents_with": {**with_parts, "4_or_more": float((counts_P >= 4).double().mean())},
        "contained": summary(inside),
        "contained_by_chance": summary(by_chance),
    }


def _firing_latents(sae: SparseAutoencoder, rows_ND: Float[Tensor, "N D"]) -> Int[Tensor, "F"]:
    fires_F = torch.zeros(sae.config.n_latents, dtype=torch.bool)
    for x_BD in torch.split(rows_ND, _ROWS_AT_ONCE):
        codes = sae.encode(x_BD.to(sae.W_dec.device))
        fires_F[codes.indices[codes.values > 0].cpu()] = True
    if not fires_F.any():
        raise InputError("no latent of an autoencoder fires on the rows; measure more of them")
    return fires_F.nonzero()[:, 0]


def _contained(
    small: SparseAutoencoder,
    large: SparseAutoencoder,
    rows_ND: Float[Tensor, "N D"],
    parts: Int[Tensor, "P"],
    parents: tuple[Int[Tensor, "P"], ...],
) -> list[Float[Tensor, "P"]]:
    """For each list of parents the fraction of a part's firings at which its parent fires."""
    n_small, n_large = small.config.n_latents, large.config.n_latents
    place_F = torch.full((n_large,), -1)
    place_F[parts] = torch.arange(len(parts))
    fired_P = torch.zeros(len(parts), dtype=torch.float64)
    both = [torch.zeros(len(parts), dtype=torch.float64) for _ in parents]
    for x_BD in torch.split(rows_ND, _ROWS_AT_ONCE):
        row_E, latent_E = _firings(small, x_BD)
        keys_E = (row_E * n_small + latent_E).sort().values
        row_E, latent_E = _firings(large, x_BD)
        place_E = place_F[latent_E]
        row_E, place_E = row_E[place_E >= 0], place_E[place_E >= 0]
        fired_P += torch.bincount(place_E, minlength=len(parts))
        for parents_P, both_P in zip(parents, both, strict=True):
            wanted_E = row_E * n_small + parents_P[place_E]
            slots_E = torch.searchsorted(keys_E, wanted_E).clamp(max=max(len(keys_E) - 1, 0))
            if len(keys_E):
                both_P += torch.bincount(place_E[keys_E[slots_E] == wanted_E], minlength=len(parts))
    return [both_P / fired_P for both_P in both]


def _firings(
    sae: SparseAutoencoder, x_BD: Float[Tensor, "B D"]
) -> tuple[Int[Tensor, "E"], Int[Tensor, "E"]]:
    """Rows and latents of the used slots."""
    codes = sae.encode(x_BD.to(sae.W_dec.device))
    row_E, slot_E = (codes.values > 0).nonzero(as_tuple=True)
    return row_E.cpu(), codes.indices[row_E, slot_E].cpu()
