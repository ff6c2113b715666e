"""Observable propagation (arXiv 2312.16291): the direction that raises the logits of some tokens
over those of others; see `..observable`.

It needs no texts. With --texts or, for --how boundary, --pairs the gradients are taken there.
"""

from dataclasses import dataclass

from ....sae.common.errors import InputError
from ....sae.language_model.model import LanguageModel
from ..config import FitConfig
from ..fitted import Fitted
from ..method import Say
from ..observable import fit_observable
from ..sources import Source, SourceKind
from ..trained_config import ObservableConfig
from ..trained_options import OF_METHOD
from ..transport_texts import neutral_texts, only_site


@dataclass(frozen=True)
class ObservableFit:
    """An entry of `FIT_METHODS`."""

    takes: tuple[SourceKind, ...] = ("observable",)
    settings: tuple[str, ...] = OF_METHOD["observable"]

    def fit(self, model: LanguageModel, source: Source, config: FitConfig, say: Say) -> Fitted:
        """Find the direction at one site.

        Raises:
            InputError: as `fit_observable`, or several sites are given.
        """
        if (config.how == "boundary") != (config.pairs is not None):
            raise InputError(
                "pairs and --how boundary go together; give both or neither", field="pairs"
            )
        settings = ObservableConfig(
            observable=config.observable or "",
            site=only_site(model, config),
            batch_size=config.batch_size,
            **config.of_method("observable"),
        )
        in_pairs = config.pairs is not None
        say(f"finding what moves {settings.observable!r} at {settings.site}")
        return fit_observable(
            model,
            settings,
            prompts=() if in_pairs else source.texts,
            pairs=tuple(zip(source.texts[::2], source.texts[1::2], strict=True))
            if in_pairs
            else (),
            neutral=neutral_texts(config),
        )


METHOD = ObservableFit()
