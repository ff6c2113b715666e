"""Lin-AcT (arXiv 2410.23054): a map of each coordinate that carries the negative texts' activations
to those of the positive ones, in closed form; see `..lin_act`.

Of several sites each is edited, in the model's order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ....sae.language_model.model import LanguageModel
from ...features.text_lists import read_text_list
from ..config import FitConfig
from ..fitted import Fitted
from ..lin_act import fit_lin_act
from ..method import Say
from ..sources import Source, SourceKind
from ..trained_config import LinActConfig
from ..transport_texts import of_sides, text_fit_settings


@dataclass(frozen=True)
class LinActMethod:
    """An entry of `FIT_METHODS`."""

    takes: tuple[SourceKind, ...] = ("sets", "pairs")
    settings: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Settings of `LinActConfig` in place of its defaults."""

    def fit(self, model: LanguageModel, source: Source, config: FitConfig, say: Say) -> Fitted:
        """Fit the maps; by default linear ones, to means over texts, one site after the other.

        Raises:
            InputError: as `fit_lin_act`.
        """
        positive, negative = of_sides(source)
        neutral = config.neutral and read_text_list(
            config.neutral, config.text_field, what="--neutral"
        )
        say("fitting the map of each coordinate")
        settings = LinActConfig(**{**text_fit_settings(model, config), **self.options})
        return fit_lin_act(model, negative, positive, settings, neutral=neutral or ())


METHOD = LinActMethod()
