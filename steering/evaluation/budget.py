"""What steering may cost: the kinds of cost, and a limit for one of them. Nothing here imports
torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from ...sae.common.errors import InputError
from ...sae.common.validation import require_choice, require_positive

BudgetKind = Literal["kl", "perplexity", "continuation_perplexity", "repetition"]

BUDGET_KINDS: tuple[BudgetKind, ...] = get_args(BudgetKind)


@dataclass(frozen=True)
class Budget:
    """A cost that a strength is chosen to have."""

    kind: BudgetKind
    """`kl`: KL(steered || unsteered) of the next-token prediction, in nats, at the tokens that the
    steered model writes. `perplexity`: by how much the perplexity of neutral text rises, as a
    fraction. `continuation_perplexity`: by how much the unsteered model's perplexity of what is
    written rises above that of what it writes itself, as a fraction. `repetition`: by how much the
    fraction of repeated runs of three tokens rises above that of the unsteered model's texts."""

    target: float
    """The cost, above 0: nats for `kl`, else a fraction, such as 0.1 for 10 %."""

    def __post_init__(self) -> None:
        require_choice("kind", self.kind, BUDGET_KINDS)
        require_positive("target", self.target)

    @property
    def is_ratio(self) -> bool:
        """Whether the cost is a ratio less 1, whose logarithm follows the power law."""
        return self.kind in ("perplexity", "continuation_perplexity")

    @property
    def reads_neutral_text(self) -> bool:
        """Whether it is measured on text that is given; the other kinds are measured on what is
        written after prompts."""
        return self.kind == "perplexity"


def fraction_of(name: str, text: str) -> float:
    """The fraction that a text such as `10%` or `0.1` gives, above 0.

    Raises:
        InputError: it is no such number; the message begins with `name`.
    """
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        raise InputError(
            f"{name} is {text!r}, but must be a fraction such as 10% or 0.1", field=name
        ) from None
    require_positive(name, value)
    return value
