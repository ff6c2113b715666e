"""What a gate is: a rule that says at which positions of a text, and how far, edits apply."""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from ....sae.common.errors import InputError
from ...registries import GATES
from ..firing import FiringLatents
from ..rules import Context, Rule
from ..spec import Gate
from ..token_watch import SeenTokens


class GateRule(Rule, ABC):
    """One gate at work, which sees a batch of texts pass by pass.

    A pass that does not continue the texts of the one before begins new ones, each row a text.

    Attributes:
        always_open: whether it is open everywhere, padding included. Then it is not asked, and the
            model may be called with embeddings in place of tokens.
    """

    always_open: ClassVar[bool] = False

    def __init__(self, gate: Gate, context: Context) -> None:
        """Take the specification, whose features are those of the edits where it has none of its
        own, and where it is to work.

        Raises:
            InputError: it lacks what the kind needs, or has what it does not take.
        """
        super().__init__(gate.kind, gate.vectors, gate.settings, gate.features, context)
        self.gate = gate
        if self.needs and gate.threshold == -float("inf"):
            raise InputError(
                f"threshold is -inf, at which {gate.kind} is open everywhere; choose the gate "
                "constant",
                field="threshold",
            )

    @abstractmethod
    def open(
        self, h_BLD: Float[Tensor, "B L D"], seen: SeenTokens
    ) -> Bool[Tensor, "B L"] | Float[Tensor, "B L"]:
        """Where the gate is open in this pass.

        Args:
            h_BLD: raw activations at the gate's site before any edit there.
            seen: the tokens of the pass, on any device.

        Returns:
            On any device: True where edits apply, or by how much, from 0 to 1.
        """

    @cached_property
    def firing(self) -> FiringLatents:
        """Its features, each with the threshold above which it fires."""
        features = self.gate.features
        if not features:
            raise InputError(
                f"{self.kind} asks whether features fire, and there is none; give the gate features"
            )
        return FiringLatents(
            self.sae,
            [feature.index for feature in features],
            [self.gate.threshold * feature.max_activation for feature in features],
        )

    def fires(self, h_BLD: Float[Tensor, "B L D"], seen: SeenTokens) -> Bool[Tensor, "B L"]:
        """Where any of the features exceeds its threshold; padding, special tokens and a text's
        first token never do."""
        return self.firing.fires_where(h_BLD, seen.content_BL.to(h_BLD.device))


def gate_rule(gate: Gate, context: Context) -> GateRule:
    """The gate at work.

    Raises:
        InputError: there is no such kind, or it lacks what the kind needs.
    """
    return GATES.get(gate.kind)(gate, context)
