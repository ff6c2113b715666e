"""The error of a model that is steered too far, for callers that try a smaller strength then."""

from ..sae.common.errors import InputError


class TooStrong(InputError):
    """The steered model's logits are no numbers any more: the strength is too large."""
