"""Errors of steering at some strength, for callers that go on from there."""

from ..sae.common.errors import InputError


class TooStrong(InputError):
    """The steered model's logits are no numbers any more: the strength is too large."""


class NotDefined(InputError):
    """What is asked for cannot be had from these texts, such as a direction between sides that are
    alike; with other texts it can."""


class NoDose(InputError):
    """Of the strengths that were tried none changes the model without breaking it."""
