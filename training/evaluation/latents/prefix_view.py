"""The first latents of a nested dictionary as an autoencoder of their own."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ....kernels.codes import Codes
from ....sae.autoencoder import SparseAutoencoder
from ....sae.common.errors import InputError
from ....sae.config import SAEConfig


class PrefixView(SparseAutoencoder):
    """The first latents of an autoencoder, decoded alone, as training with `prefixes` has them.

    The whole dictionary encodes, and of a row's codes those of the prefix are kept: they are not
    chosen anew among its latents. So with topk the prefix has fewer than k active latents, as many
    as fall into it. Where each latent is active by a threshold of its own that is no difference.

    Attributes:
        whole: the autoencoder, which encodes; its weights are shared.
        W_enc, b_enc, W_dec: of the first latents.
    """

    def __init__(self, whole: SparseAutoencoder, n_latents: int) -> None:
        """The first `n_latents` of `whole`.

        Raises:
            InputError: it has not so many.
        """
        width = whole.config.n_latents
        if not 0 < n_latents <= width:
            raise InputError(
                f"a prefix of {n_latents} latents is not one of the dictionary's {width}; give a "
                f"number from 1 to {width}"
            )
        super().__init__(_cut_config(whole.config, n_latents), origin=whole.origin)
        # Not a submodule: its tensors are no state of the view.
        self._whole = (whole,)
        with torch.no_grad():
            for name in ("W_enc", "b_enc", "W_dec"):
                getattr(self, name).data = getattr(whole, name).data[:n_latents]
            own = {*self.activation.state()}
            for name, tensor in whole.state_dict().items():
                if name in own:
                    of_latents = tensor.dim() and len(tensor) == width
                    self.state_dict()[name].copy_(tensor[:n_latents] if of_latents else tensor)
                elif name not in ("W_enc", "b_enc", "W_dec"):
                    getattr(self, name).data = tensor

    @property
    def whole(self) -> SparseAutoencoder:
        """The autoencoder of which it is the first part."""
        return self._whole[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PrefixView":
        """Move the whole, too, which is no submodule."""
        self.whole._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType] - untyped
        return super()._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType] - untyped

    def encode_scaled(self, x_BD: Float[Tensor, "B D"]) -> Codes:
        """The whole dictionary's codes, those beyond the prefix set to 0."""
        return self.restricted(self.whole.encode_scaled(x_BD))

    def restricted(self, codes: Codes) -> Codes:
        """Codes of the whole dictionary without what is beyond the prefix: index and value 0."""
        inside = codes.indices < self.config.n_latents
        return codes._replace(
            indices=codes.indices * inside, values=codes.values * inside, counts=None, l0_gate=None
        )


def _cut_config(config: SAEConfig, n_latents: int) -> SAEConfig:
    """The configuration with so many latents; k, which cannot be more, is at most that."""
    changed: dict[str, Any] = {
        "n_latents": n_latents,
        "prefixes": tuple(prefix for prefix in config.prefixes if prefix < n_latents),
    }
    if (k := config.latents_of_row) is not None:
        changed["k"] = min(k, n_latents)
    return dataclasses.replace(config, **changed)
