"""Batches where they are trained on; a GPU's are cut, pinned and sent while it is at work."""

from collections.abc import Generator
from contextlib import closing
from itertools import count

import torch
from jaxtyping import Float
from torch import Tensor

from ..data.batches import one_ahead


def on_device(
    batches: Generator[Float[Tensor, "B D"]], device: torch.device
) -> Generator[Float[Tensor, "B D"]]:
    """The batches on the device, for a GPU from a thread that is one ahead.

    From pinned memory a copy does not wait for what the GPU has yet to do. Closing this closes the
    batches.
    """

    def send(_: int) -> Float[Tensor, "B D"] | None:
        x = next(batches, None)
        if x is None:
            return None
        with torch.cuda.device(device):
            return x.pin_memory().to(device, non_blocking=True)

    with closing(batches):
        if device.type != "cuda":
            for x in batches:
                yield x.to(device)
            return
        with closing(one_ahead(send, count())) as sent:
            for x in sent:
                if x is None:
                    return
                yield x
