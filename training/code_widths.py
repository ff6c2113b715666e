"""How wide the codes of a step may be on a GPU, as earlier steps needed it, so that none waits."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..kernels.capacity import SlotCapacity
from ..kernels.numerics import ceil_div

STEPS_UNTIL_ASKED = 100
_MULTIPLE = 16


class CodeWidths:
    """Slots of a row that steps take for granted whose codes are as wide as the data ask for.

    Every hundredth step counts what its fullest row needs, for which the host waits, and so does a
    step whose rows did not fit, when it is made again. The widths are a quarter more than that, and
    fall by a quarter at most at a time. They are alike on all ranks, and a checkpoint has them: the
    last bits of what is summed depend on them.

    Attributes:
        tensor: [n_parts] the widths, 0 before the first step; may be changed in place.
    """

    def __init__(self, n_parts: int, like: Tensor) -> None:
        """n_parts: of a row, see `Activation.n_code_parts`; like: a tensor of the device."""
        self.tensor = torch.zeros(n_parts, dtype=torch.int64, device=like.device)
        # Read anew before the first step: a broadcast may change what PyTorch then does not count.
        self._known: tuple[int, tuple[int, ...]] = (-1, ())

    def capacity(self, step: int, *, asks: bool) -> SlotCapacity:
        """For the step (from 0); asks: whether it may wait anyhow."""
        widths = self._widths()
        return SlotCapacity(widths, asks or not all(widths) or step % STEPS_UNTIL_ASKED == 0)

    def learn(
        self,
        capacity: SlotCapacity,
        step: int,
        all_reduce_min: Callable[[Float[Tensor, ""]], Float[Tensor, ""]] | None = None,
    ) -> None:
        """Take in what a step needed; every rank calls this after one that asked, with what gives
        the smallest of their values where there are several.

        A step that was asked only because the host read its figures changes nothing, unless a row
        did not fit: then a step that had not asked would have been made again.
        """
        if not capacity.needed:
            return
        needed = list(capacity.needed)
        if all_reduce_min is not None:
            own = self.tensor.new_tensor(needed, dtype=torch.float32)
            needed = [-int(all_reduce_min(-n)) for n in own]
        old = self._widths()
        fits = all(n <= width for n, width in zip(needed, old, strict=True))
        if fits and step % STEPS_UNTIL_ASKED:
            return
        new = tuple(
            max(_MULTIPLE, _MULTIPLE * ceil_div(5 * n, 4 * _MULTIPLE), width - width // 4)
            for n, width in zip(needed, old, strict=True)
        )
        if step % STEPS_UNTIL_ASKED:  # only what did not fit changes
            new = tuple(map(max, new, old))
        self.tensor.copy_(torch.tensor(new))
        self._known = self._version(), new

    def _widths(self) -> tuple[int, ...]:
        """On the host; waits for the device if somebody else has changed them."""
        version, widths = self._known
        if version != self._version():
            widths = tuple(map(int, self.tensor.tolist()))  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType, reportUnknownArgumentType] - untyped builtin
            self._known = self._version(), widths
        return widths

    def _version(self) -> int:
        return self.tensor._version  # pyright: ignore[reportPrivateUsage] - documented
