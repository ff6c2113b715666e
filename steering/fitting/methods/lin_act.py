"""Lin-AcT (arXiv 2410.23054): a map of each coordinate that carries the negative texts' activations
to those of the positive ones, in closed form; see `..lin_act`.

Of several sites each is edited, in the model's order.
"""

from dataclasses import dataclass

from ....sae.common.errors import InputError
from ....sae.language_model.model import LanguageModel
from ..config import FitConfig, Pool
from ..fitted import Fitted
from ..lin_act import fit_lin_act
from ..method import Say
from ..sources import Source, SourceKind
from ..trained_config import LinActConfig
from ..trained_options import OF_METHOD
from ..transport_texts import mapped_autoencoders, neutral_texts, of_sides, text_fit_settings


@dataclass(frozen=True)
class LinActMethod:
    """An entry of `FIT_METHODS`."""

    takes: tuple[SourceKind, ...] = ("sets", "pairs")
    settings: tuple[str, ...] = ("pool", *OF_METHOD["lin_act"])

    def fit(self, model: LanguageModel, source: Source, config: FitConfig, say: Say) -> Fitted:
        """Fit the maps; by default linear ones, to means over texts, one site after the other.

        Raises:
            InputError: as `fit_lin_act`.
        """
        positive, negative = of_sides(source)
        settings = LinActConfig(
            **text_fit_settings(model, config),
            **config.of_method("lin_act"),
            pool="none" if self.pool_of(config) == "each" else "mean",
        )
        say("fitting the map of each coordinate")
        return fit_lin_act(
            model,
            negative,
            positive,
            settings,
            saes=mapped_autoencoders(model, config, settings.sites),
            neutral=neutral_texts(config),
        )

    def pool_of(self, config: FitConfig) -> Pool:
        """What of a text is fitted to: its mean, or each token.

        Raises:
            InputError: something else is asked for.
        """
        if config.pool not in (None, "texts", "each"):
            raise InputError(
                f"pool is {config.pool!r}, but lin_act goes with texts, each", field="pool"
            )
        return config.pool or "texts"


METHOD = LinActMethod()
