"""Whether an autoencoder fits what its activations come from: its width and the model's weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from .autoencoder import SparseAutoencoder
from .common.errors import InputError
from .language_model.sites import Site


@runtime_checkable
class KnownModel(Protocol):
    """What an autoencoder's origin and an activation cache say of their language model."""

    @property
    def model(self) -> str:
        """Its name, but for a local one its absolute path."""
        ...

    @property
    def weights_hash(self) -> str | None:
        """SHA-256 of its weights; None if that is not known."""
        ...


@runtime_checkable
class Cached(KnownModel, Protocol):
    """What an activation cache says of itself."""

    path: Path
    """Its folder."""

    @property
    def d_model(self) -> int:
        """Width of its activations."""
        ...


def require_fits(
    sae: SparseAutoencoder,
    *,
    of: str = "the autoencoder",
    site: Site | None = None,
    cache: Cached | None = None,
    allow_other_weights: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Raise an InputError unless the autoencoder fits the site and the cache that are given.

    Both must have its width, and the cache must come from the language model that the autoencoder
    was trained on, where that is known. The weights of a site's model are compared when the model
    is loaded (`load_again`).

    Args:
        sae: the autoencoder.
        of: what to call it in the message.
        site: where it is to read or write.
        cache: what it is to read.
        allow_other_weights: only say it if the cache is of a model with other weights.
        say: told that.
    """
    if site is not None:
        sae.require_width(
            site.width,
            f"{site.name} of {site.model.name}",
            of=of,
            remedy="give the model and site it was trained on",
        )
    if cache is not None:
        remedy = "give a cache of the model it was trained on"
        sae.require_width(cache.d_model, str(cache.path), of=of, remedy=remedy)
        if sae.origin is not None:
            require_weights(
                sae.origin,
                cache.weights_hash,
                f"{cache.model}, the model of {cache.path},",
                of=of,
                remedy=remedy,
                allow_other_weights=allow_other_weights,
                say=say,
            )


def require_weights(
    made: KnownModel,
    weights_hash: str | None,
    name: str,
    *,
    of: str,
    remedy: str,
    allow_other_weights: bool,
    say: Callable[[str], None],
) -> None:
    """Raise an InputError unless a language model has the weights of the one that `made` names, if
    its hash is known.

    Args:
        made: what is known of the model that is wanted.
        weights_hash: of the model that is there.
        name: what to call the model that is there.
        of: what was made with the wanted one.
        remedy: what to give instead.
        allow_other_weights: only say that the weights are others.
        say: told that.
    """
    if made.weights_hash is None or weights_hash == made.weights_hash:
        return
    fault = f"{name} has other weights than {made.model}, with which {of} was made"
    if not allow_other_weights:
        raise InputError(f"{fault}; {remedy}, or --allow-other-weights to use it all the same")
    say(f"{fault}; it is used all the same")
