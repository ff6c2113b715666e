"""What a fitting method is."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from ...sae.language_model.model import LanguageModel
from .config import FitConfig
from .fitted import Fitted
from .sources import Source, SourceKind

Say = Callable[[str], None]
"""Told sentences for a person."""


@runtime_checkable
class FitMethod(Protocol):
    """An entry of `FIT_METHODS`."""

    @property
    def takes(self) -> tuple[SourceKind, ...]:
        """Kinds of texts that it can be fitted to."""
        ...

    @property
    def settings(self) -> tuple[str, ...]:
        """Those of `config.OF_METHODS` that go with it."""
        ...

    def fit(self, model: LanguageModel, source: Source, config: FitConfig, say: Say) -> Fitted:
        """Fit it; `fitting.fit` has checked before that texts and settings go with it.

        Raises:
            InputError: the texts are too few or too short, a site is unknown, or the fit is not
                defined for them.
        """
        ...
