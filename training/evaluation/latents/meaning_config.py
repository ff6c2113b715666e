"""Settings of the measures of monosemanticity that need no judge; imports no torch."""

from dataclasses import dataclass

from ....sae.common.errors import InputError
from ....sae.common.validation import require_in_range, require_integer, require_positive_integer


@dataclass(frozen=True, kw_only=True)
class MeaningSettings:
    """How much text and how many latents are looked at."""

    latents: int = 1000
    """Latents drawn at random from those that fire."""

    contexts: int = 1024
    """Held-out contexts of the cache."""

    examples: int = 10
    """Top examples of a latent, and as many drawn in proportion to its activation, each of another
    document; those of a latent that fires in fewer than 3 documents are not compared."""

    before: int = 24
    """Rows before an example that are compared."""

    after: int = 8
    """Rows after it."""

    embedding_site: str | None = None
    """Site of the language model by which texts are compared; by default the residual stream after
    three quarters of its layers."""

    outlier_norm: float = 5.0
    """Rows whose norm is more than so many times the median do not count; 0 counts all."""

    def __post_init__(self) -> None:
        for name in ("latents", "contexts"):
            require_positive_integer(name, getattr(self, name))
        require_integer("examples", self.examples, least=3)
        for name in ("before", "after"):
            require_integer(name, getattr(self, name), least=0)
        if not self.before + self.after:
            raise InputError(
                "before and after are 0, which leaves no text to compare; raise one of them",
                field="before",
            )
        require_in_range("outlier_norm", self.outlier_norm, low=0.0, high=1e9)
