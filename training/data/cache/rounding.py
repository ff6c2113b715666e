"""What a cache's dtype has taken of the rows: rounding beside their variance."""

import torch
from jaxtyping import Float
from torch import Tensor

from .reader import ActivationCache

_MUCH = 0.01
_LOOKED_AT = 4096
"""Held-out rows of a cache that tell how much rounding took."""

_FRACTION_BITS = {"float16": 10, "bfloat16": 7, "float32": 23}


def rounding_fraction(x: Float[Tensor, "N D"], dtype: str) -> float:
    """The variance that rounding to the dtype has added to rows, as a fraction of theirs: an FVU
    below it cannot be real. 0 for rows without variance."""
    wide_ND = x.double()
    if dtype == "int8":
        step_ND = (wide_ND.abs().amax(1, keepdim=True) / 127).expand_as(wide_ND)
    else:
        step_ND = torch.ldexp(torch.ones_like(wide_ND), wide_ND.frexp().exponent - 1)
        step_ND = step_ND * 2.0 ** -_FRACTION_BITS[dtype] * (wide_ND != 0)
    spread = float((wide_ND - wide_ND.mean(0)).square().sum())
    return float(step_ND.square().sum()) / 12 / spread if spread else 0.0


def rounding_caution(x: Float[Tensor, "N D"], dtype: str, site: str) -> str | None:
    """A sentence where rounding is much of what rows tell, as with a constant in some dimensions
    that is hundreds of times the spread; None where it is little."""
    fraction = rounding_fraction(x, dtype)
    if fraction < _MUCH:
        return None
    return (
        f"rounding to {dtype} is {fraction:.0%} of the variance of the cached rows at {site}, "
        "which have values far larger than their spread; cache with --dtype float32 to keep what "
        "varies"
    )


def rounding_cautions(cache: ActivationCache) -> list[str]:
    """The sentences of `rounding_caution` on a cache that has held-out rows, for its sites."""
    found = [
        rounding_caution(cache.held_out(site=site, limit=_LOOKED_AT), cache.dtype, site)
        for site in cache.sites
    ]
    return [caution for caution in found if caution]
