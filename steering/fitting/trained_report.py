"""How a fit separates texts that it was not fitted to."""

import random
from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ...sae.common.errors import InputError
from .separation import separation

T = TypeVar("T")


def held_out_split(rows: Sequence[T], fraction: float, seed: int) -> tuple[list[T], list[T]]:
    """Texts to fit to, and those held out: a fraction of them rounded down, drawn with the seed.

    Raises:
        InputError: fewer than two would be left to fit to.
    """
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    n_held_out = int(fraction * len(rows))
    if len(rows) - n_held_out < 2:
        raise InputError(
            f"there are {len(rows)} texts to fit to, of which {n_held_out} are held out; give at "
            "least two more"
        )
    held_out = set(order[:n_held_out])
    fitted = [row for number, row in enumerate(rows) if number not in held_out]
    return fitted, [rows[number] for number in sorted(held_out)]


def separation_along(
    direction_D: Float[Tensor, "D"],
    positive_ND: Float[Tensor, "N D"],
    negative_MD: Float[Tensor, "M D"],
) -> dict[str, float] | None:
    """How far the projection on a direction tells two sets of rows apart; see `separation`."""
    rows_ND = torch.cat([positive_ND, negative_MD]).double()
    is_positive_N = torch.arange(len(rows_ND), device=rows_ND.device) < len(positive_ND)
    return separation(rows_ND @ direction_D.double(), is_positive_N)
