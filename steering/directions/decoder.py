"""A feature's own direction: its row of the decoder."""

from collections.abc import Sequence
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from ...sae.autoencoder import SparseAutoencoder
from ..interventions.spec import SteeredFeature


class Direction(Protocol):
    """Finds the vector of each of some features."""

    def __call__(
        self, sae: SparseAutoencoder, features: Sequence[SteeredFeature], seed: int
    ) -> Float[Tensor, "P D"]:
        """One vector for each feature, in the autoencoder's scaled units and of any length.

        An intervention's change is in multiples of it, as one of a decoder row, whose length is
        1.

        Args:
            sae: the autoencoder of the features.
            features: P features.
            seed: for what is drawn at random.

        Raises:
            InputError: there is no vector of a feature.
        """
        ...


def decoder(
    sae: SparseAutoencoder, features: Sequence[SteeredFeature], seed: int
) -> Float[Tensor, "P D"]:
    """The decoder's rows of the features: what the autoencoder adds where they are active."""
    del seed
    return sae.W_dec.detach()[[feature.index for feature in features]]
