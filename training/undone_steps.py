"""What a step leaves as it was if it is not done, where only the device knows that yet."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool
from torch import Tensor


@contextmanager
def unchanged_unless(
    applies: Bool[Tensor, ""] | None, tensors: Sequence[Tensor]
) -> Generator[None]:
    """Undo what the context changes in the tensors, in place, where `applies` comes out false.

    Nothing waits for the device. Without `applies`, None, the changes stay, and nothing is copied.
    """
    before = [] if applies is None else [tensor.clone() for tensor in tensors]
    yield
    if applies is not None:
        for tensor, old in zip(tensors, before, strict=True):
            torch.where(applies, tensor, old, out=tensor)
