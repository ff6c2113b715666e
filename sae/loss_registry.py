"""Loss terms that are asked for by name, each with a coefficient: those of this package and those
of installed ones. Imports no torch.

A term is a function of `sae.losses.ForwardPass`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from .common.errors import InputError
from .common.named_values import read_named_values
from .common.registry import Registry
from .common.validation import require_in_range

OWN_TERMS = ("auxk", "afa", "sparsity", "multi_topk")
"""The terms that have settings of their own, in the order in which every run logs them."""
FIGURES = (
    *("loss", "mse", "fvu", "l0", "dead_fraction", "gradient_norm"),
    *("lr", "k", "step", "tokens", "seconds", "held_out", "summary", "crc32"),
)
"""The other keys of the lines of metrics.jsonl, which no term may be called."""

_HERE = "sparsteer.sae"

LOSS_TERMS: Registry[Callable[[Any], Any]] = Registry(
    "loss_term",
    "sparsteer.loss_terms",
    {
        "frequency": f"{_HERE}.frequency_penalty:frequency_penalty",
        "orthogonality": f"{_HERE}.orthogonality_penalty:orthogonality_penalty",
    },
)
"""Every one a `sae.losses.LossTerm`."""


def parse_loss_terms(words: Sequence[str]) -> dict[str, float]:
    """The coefficient of each term from words such as `l1=0.001`.

    Raises:
        InputError: a word is not of this form, a coefficient is no number from 0 to 1e6, no term
            has the name, or it has that of another figure in metrics.jsonl.
    """
    if not words:
        return {}
    kinds = dict.fromkeys(LOSS_TERMS.names(), float)
    coefficients = read_named_values("loss_term", words, kinds, of="this installation")
    for name, coefficient in coefficients.items():
        if name in (*OWN_TERMS, *FIGURES):
            raise InputError(
                f"loss_term is {name}, which is another figure's name; rename the term",
                field="loss_term",
            )
        try:
            require_in_range(f"loss_term {name}", coefficient, low=0.0, high=1e6)
        except InputError as error:
            raise InputError(str(error), field="loss_term") from None
    return coefficients
