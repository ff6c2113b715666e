"""Where training gets its rows from: a cache on disk, or a stream from the language model."""

from collections.abc import Generator
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class ActivationSource(Protocol):
    """Shuffled rows to train on and held-out ones, of one or several sites of a language model."""

    @property
    def d_model(self) -> int:
        """D, width of the activations."""
        ...

    @property
    def dtype(self) -> str:
        """In which rows were stored before they were widened to float32."""
        ...

    @property
    def model(self) -> str:
        """The language model as the user named it."""
        ...

    @property
    def weights_hash(self) -> str:
        """Hash of its weights."""
        ...

    @property
    def model_dtype(self) -> str:
        """The dtype in which it ran."""
        ...

    @property
    def dataset(self) -> str:
        """The corpus that it read, as the user named it."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens in one context, BOS included."""
        ...

    @property
    def prepends_bos(self) -> bool:
        """Whether contexts begin with BOS."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """What decides every row, as plain values: runs with the same may go on with each other."""
        ...

    def site_name(self, site: str | None = None) -> str:
        """The site meant: the one named, or the only one there is; InputError if that is none."""
        ...

    def sample(
        self, n_rows: int, *, site: str | None = None, seed: int = 0
    ) -> Float[Tensor, "N D"]:
        """So many of the training rows in float32, or fewer if there are not more."""
        ...

    def batches(
        self,
        batch_size: int,
        *,
        site: str | None = None,
        seed: int = 0,
        start: int = 0,
        part: slice | None = None,
        device: torch.device | None = None,
    ) -> Generator[Float[Tensor, "B D"], None, None]:
        """Training rows in float32, shuffled; batch i depends on `seed` and i alone. They begin at
        batch `start`; with `part` only these rows of each batch are given. They are on the device,
        by default the CPU, ready for the stream that is current where each is asked for."""
        ...

    def require_batch(self, batch_size: int) -> None:
        """Raise InputError if there are no batches of that size; without reading any."""
        ...

    def require_held_out(self) -> None:
        """Raise InputError if there are no held-out rows; without reading them."""
        ...

    def held_out(
        self, *, site: str | None = None, limit: int | None = None
    ) -> Float[Tensor, "N D"]:
        """Held-out rows in float32, at most `limit`; the same every time."""
        ...
