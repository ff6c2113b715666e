"""What an edit is: a rule that says by how much T(h) differs from h."""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ....sae.common.errors import InputError
from ...registries import EDITS
from ..rules import Context, Rule
from ..spec import Edit, SteeredFeature, Unit
from .push import Push, push_of


class EditRule(Rule, ABC):
    """One edit at work. Strength and gate are not its business: it says T(h) - h.

    Attributes:
        units: those in which the strengths of its features, or its own, may be.
        adds_features: whether it changes nothing where every feature's strength is 0. False for
            those that lead features to a value, or take no notice of their strengths.
        may_take_features: whether features can stand in the place of its vectors.
    """

    units: ClassVar[tuple[Unit, ...]] = ("max_activation", "raw")
    adds_features: ClassVar[bool] = True
    may_take_features: ClassVar[bool] = False

    def __init__(self, edit: Edit, context: Context) -> None:
        """Take the specification and where it is to work.

        Raises:
            InputError: it lacks what the kind needs, or has what it does not take.
        """
        super().__init__(edit.kind, edit.vectors, edit.settings, edit.features, context)
        self.edit = edit
        self.unit: Unit = edit.unit or "raw"
        if self.unit not in self.units:
            raise InputError(
                f"unit is {self.unit}, and strengths of {edit.kind} are in "
                f"{' or '.join(self.units)}; choose one of these",
                field="unit",
            )
        if edit.features and not (self.needs_features or self.may_take_features):
            raise InputError(
                f"{edit.kind} is made of fitted vectors, and features alone do not say what it "
                "does; fit it, or choose another edit"
            )

    @abstractmethod
    def change(self, h_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "..."]:
        """T(h) - h: [B, L, D], or [D] if it is the same everywhere; in the dtype of h or a wider.

        Nothing in it should wait for the device (`.item()`, `bool(tensor)`, `nonzero`).

        Args:
            h_BLD: raw activations at the site, as they were before any edit there.
        """

    def _stands_for(self, name: str, features: tuple[SteeredFeature, ...]) -> bool:
        del name
        return self.may_take_features and bool(features)

    @cached_property
    def push(self) -> Push:
        """Along which vectors its features push, and how far."""
        return push_of(self.edit, self.sae)


def edit_rule(edit: Edit, context: Context) -> EditRule:
    """The edit at work.

    Raises:
        InputError: there is no such kind, or it lacks what the kind needs.
    """
    return EDITS.get(edit.kind)(edit, context)
