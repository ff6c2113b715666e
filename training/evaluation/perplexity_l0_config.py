"""Configuration of the search for the L0 that perplexity allows; imports no torch."""

from dataclasses import dataclass

from ...sae.common.errors import InputError
from ...sae.common.paths import FilePath
from ...sae.common.validation import require_in_range
from .config import EvalSettings


@dataclass(frozen=True, kw_only=True)
class PerplexityL0Config(EvalSettings):
    """How many latents of a row a language model needs, by the perplexity that fewer cost it."""

    sae: FilePath
    """Folder of a trained autoencoder with a large L0, or of the run that trained it."""

    percent: tuple[float, ...] = (0.5, 1.0, 5.0)
    """By how much perplexity may rise, in percent."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.contexts < 1:
            raise InputError(
                "contexts is 0, but perplexity is measured on some; give 1 or more",
                field="contexts",
            )
        if not self.percent:
            raise InputError("percent is empty; give at least one, such as 1", field="percent")
        for value in self.percent:
            require_in_range("percent", value, low=1e-6, high=1e3)
