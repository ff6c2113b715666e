"""Model-pair directions (the idea of arXiv 2511.20233): the mean difference of two models on the
same tokens, which moves the first towards the second; see `..model_pair`.

Of several sites each is edited.
"""

from dataclasses import dataclass

from ....sae.language_model.model import LanguageModel
from ..config import FitConfig
from ..fitted import Fitted
from ..method import Say
from ..model_pair import fit_model_pair
from ..sources import Source, SourceKind
from ..trained_config import ModelPairConfig
from ..trained_options import OF_METHOD
from ..transport_texts import neutral_texts, site_names


@dataclass(frozen=True)
class ModelPairFit:
    """An entry of `FIT_METHODS`."""

    takes: tuple[SourceKind, ...] = ("models",)
    settings: tuple[str, ...] = OF_METHOD["model_pair"]

    def fit(self, model: LanguageModel, source: Source, config: FitConfig, say: Say) -> Fitted:
        """Load the second model, and compare.

        Raises:
            InputError: as `fit_model_pair`, or the second model cannot be loaded.
        """
        lengths = {} if config.max_length is None else {"max_length": config.max_length}
        settings = ModelPairConfig(
            sites=site_names(model, config),
            batch_size=config.batch_size,
            seed=config.seed,
            **lengths,
            **config.of_method("model_pair"),
        )
        second = LanguageModel.load(
            config.models[1],
            device=config.device,
            dtype=config.model_dtype,
            device_map=config.device_map,
            progress=say,
        )
        say(f"comparing {model.name} and {second.name} on {len(source.texts):,} texts")
        return fit_model_pair(
            model,
            second,
            source.texts,
            settings,
            answers=source.answers or None,
            neutral=neutral_texts(config),
        )


METHOD = ModelPairFit()
