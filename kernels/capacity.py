"""How many slots codes get on a GPU where that depends on the data, without asking the device.

The host cannot know what the fullest row of a batch needs before the GPU has counted, and waiting
for the count leaves the GPU idle. A `SlotCapacity` takes it for granted instead, as of earlier
batches. A row that does not fit is never cut: a value of it is NaN, so that no sum, loss or
gradient of it passes for right, and whoever gave the capacity encodes the rows again and asks.
Not run on a GPU yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from .numerics import ceil_div


@dataclass
class SlotCapacity:
    """Slots of a row that an operator on a GPU may take for granted."""

    widths: tuple[int, ...]
    """Slots of each part of a row; what parts there are is up to the operator."""
    asks: bool
    """Whether the operator counts first, and waits: the codes then are as wide as `widths`, or as
    the fullest row needs where that is more. Otherwise they are as wide as `widths`."""
    needed: tuple[int, ...] = ()
    """Of an operator that asked: what the fullest row needed."""

    def note(self, needed: Sequence[int]) -> None:
        """Keep what the fullest row of some of the rows needs, unless others needed more."""
        before = self.needed or (0,) * len(needed)
        self.needed = tuple(map(max, before, needed))


def widths_for(
    counts: Sequence[Int[Tensor, "B"]], capacity: SlotCapacity | None, share: int = 1
) -> tuple[int, ...]:
    """Slots of each part of the rows, at least 1, for counts of each row; waits for the device.

    Args:
        counts: of each part, what the rows have of it; rows may be none.
        capacity: noted what is needed; None: as wide as the fullest row.
        share: how many times the capacity's widths these rows may take for granted.
    """
    if not len(counts[0]):
        needed = [0] * len(counts)
    else:
        largest = torch.stack([each.max() for each in counts])
        needed: list[int] = largest.tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - untyped builtin
    if capacity is None:
        return tuple(max(1, n) for n in needed)
    capacity.note([ceil_div(n, share) for n in needed])
    widths = capacity.widths or (0,) * len(needed)
    return tuple(max(1, share * width, n) for width, n in zip(widths, needed, strict=True))


def presumed_widths(capacity: SlotCapacity | None) -> tuple[int, ...] | None:
    """The widths to take without asking; None where the operator is to ask."""
    return None if capacity is None or capacity.asks else capacity.widths
