"""What edits and gates have in common: vectors, settings, and the autoencoder of features."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ...kernels.numerics import at_least_float32
from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.common.files import nearest
from .spec import Setting, SteeredFeature
from .vectors import Vectors

WIDTH = "D"
"""In the shapes of `needs` and `may_have`, the width of the site."""


@dataclass(frozen=True, eq=False)
class Context:
    """Where a rule is to work."""

    width: int
    """Of the activations."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Of the language model."""
    sae: SparseAutoencoder | None = None
    """Of the features."""


class Rule:
    """A kind of edit or gate at work, with what the specification gives it.

    Attributes:
        needs: the shape of each tensor that it must have, by its name: sizes by single letters
            with spaces between them, of which D is the site's width and each other letter one size;
            `|` stands between shapes of which each will do. A tensor of no dimension is "".
        may_have: the same of tensors that may be left out.
        may_be_infinite: the tensors whose values may be infinite.
        settings: the settings that it takes, each with its default.
        needs_features: whether it works with features of an autoencoder.
        needs_autoencoder: whether it needs an autoencoder though it may have no features.
    """

    needs: ClassVar[Mapping[str, str]] = {}
    may_have: ClassVar[Mapping[str, str]] = {}
    may_be_infinite: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[Mapping[str, Setting]] = {}
    needs_features: ClassVar[bool] = False
    needs_autoencoder: ClassVar[bool] = False

    def __init__(
        self,
        kind: str,
        vectors: Vectors | None,
        settings: Mapping[str, Setting],
        features: tuple[SteeredFeature, ...],
        context: Context,
    ) -> None:
        """Check what is given.

        Raises:
            InputError: a vector is missing, unknown or of another shape, a setting is unknown or of
                another kind, or features or the autoencoder are missing.
        """
        self.kind, self.context = kind, context
        self._settings = _checked_settings(kind, self.settings, settings)
        self._moved: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}
        self.tensors: dict[str, Tensor] = {}
        if vectors is not None:
            shapes = {**self.needs, **self.may_have}
            _require_known(kind, "vector", vectors.tensors, shapes)
            sizes = {WIDTH: context.width}
            for name, tensor in vectors.tensors.items():
                _require_shape(kind, name, tensor, shapes[name], sizes)
                if name not in self.may_be_infinite and not bool(tensor.isfinite().all()):
                    raise InputError(f"the vector {name} of {kind} is infinite; fit it again")
                self.tensors[name] = tensor.to(context.device)
        for name in self.needs:
            if name not in self.tensors and not self._stands_for(name, features):
                raise InputError(
                    f"{kind} needs the vector {name}; fit it, or give the folder of an intervention"
                )
        if self.needs_features and not features:
            raise InputError(f"{kind} works with features, and there is none; name at least one")
        if self.needs_autoencoder or features:
            self._require_autoencoder(features)

    def setting(self, name: str) -> Setting:
        """The value of a setting, its default where it is not given."""
        return self._settings[name]

    def number(self, name: str) -> float:
        """The value of a setting that is a number."""
        return float(self._settings[name])

    def tensor(self, name: str, like: Tensor) -> Tensor:
        """A vector on the device of an activation and in its dtype, in float32 at least."""
        key = (name, like.device, at_least_float32(like.dtype))
        if key not in self._moved:
            dtype = key[2] if self.tensors[name].is_floating_point() else self.tensors[name].dtype
            self._moved[key] = self.tensors[name].to(like.device, dtype)
        return self._moved[key]

    @property
    def sae(self) -> SparseAutoencoder:
        """The autoencoder of the features."""
        if self.context.sae is None:
            raise InputError(
                f"{self.kind} works with features, which are an autoencoder's; give the autoencoder"
            )
        return self.context.sae

    def _stands_for(self, name: str, features: tuple[SteeredFeature, ...]) -> bool:
        """Whether features give what a missing vector would."""
        del name, features
        return False

    def _require_autoencoder(self, features: tuple[SteeredFeature, ...]) -> None:
        sae = self.sae
        for feature in features:
            require_latent(feature.index, sae)


def require_latent(index: int, sae: SparseAutoencoder) -> None:
    """Raise an InputError unless the autoencoder has the latent."""
    if not 0 <= index < sae.config.n_latents:
        raise InputError(
            f"there is no feature {index}; the autoencoder's are 0 to {sae.config.n_latents - 1}"
        )


def wide(h: Tensor) -> Tensor:
    """An activation in float32 at least, for sums over its coordinates."""
    return h.to(at_least_float32(h.dtype))


def _require_known(
    kind: str, what: str, given: Mapping[str, object], known: Mapping[str, object]
) -> None:
    for name in given:
        if name not in known:
            near = nearest(name, known)
            hint = f"its {what}s are {', '.join(known)}" if known else f"it has no {what}"
            hint = f"did you mean {near[0]}?" if near else hint
            raise InputError(f"{kind} has no {what} {name!r}; {hint}")


def _require_shape(
    kind: str, name: str, tensor: Tensor, shapes: str, sizes: dict[str, int]
) -> None:
    """Raise an InputError unless the tensor has one of the shapes; sizes found are noted."""
    for shape in shapes.split("|"):
        letters = shape.split()
        if len(letters) != tensor.ndim:
            continue
        found = dict(zip(letters, tensor.shape, strict=True))
        if all(sizes.get(letter, size) == size for letter, size in found.items()):
            sizes.update(found)
            return
    known = ", ".join(f"{letter} = {size}" for letter, size in sizes.items())
    wanted = " or ".join(f"[{', '.join(shape.split())}]" for shape in shapes.split("|"))
    raise InputError(
        f"the vector {name} of {kind} has shape {list(tensor.shape)}, but must have {wanted} with "
        f"{known}; fit it at this site"
    )


def _checked_settings(
    kind: str, defaults: Mapping[str, Setting], given: Mapping[str, Setting]
) -> dict[str, Setting]:
    _require_known(kind, "setting", given, defaults)
    for name, value in given.items():
        default = defaults[name]
        are_numbers = _is_number(value) and _is_number(default)
        if not are_numbers and type(value) is not type(default):
            needed = "a number" if _is_number(default) else type(default).__name__
            raise InputError(f"the setting {name} of {kind} is {value!r}, but must be {needed}")
    return {**defaults, **given}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
