"""LinEAS (arXiv 2503.10679): maps of each coordinate at all sites, trained together; see
`..lineas`.

Training is saved beside what is to be written, in a folder with `.training` behind its name; the
same command goes on from there if it was interrupted.
"""

from dataclasses import dataclass
from pathlib import Path

from ....sae.common.files import remove_folder
from ....sae.language_model.model import LanguageModel
from ..config import FitConfig
from ..fitted import Fitted
from ..lineas import fit_lineas
from ..method import Say
from ..sources import Source, SourceKind
from ..trained_config import LinEASConfig
from ..trained_options import OF_METHOD
from ..transport_texts import mapped_autoencoders, neutral_texts, of_sides, text_fit_settings

_SAID_EVERY = 10


@dataclass(frozen=True)
class LinEASMethod:
    """An entry of `FIT_METHODS`."""

    takes: tuple[SourceKind, ...] = ("sets", "pairs")
    settings: tuple[str, ...] = OF_METHOD["lineas"]

    def fit(self, model: LanguageModel, source: Source, config: FitConfig, say: Say) -> Fitted:
        """Train the maps, or go on with a training that was interrupted.

        Raises:
            InputError: as `fit_lineas`.
        """
        positive, negative = of_sides(source)

        def progress(done: int, total: int, loss: float) -> None:
            if done % _SAID_EVERY == 0 or done == total:
                say(f"step {done:,} of {total:,}, loss {loss:.4g}")

        settings = LinEASConfig(**text_fit_settings(model, config), **config.of_method("lineas"))
        out = Path(config.out)
        checkpoint = out.with_name(f"{out.name}.training")
        fitted = fit_lineas(
            model,
            negative,
            positive,
            settings,
            saes=mapped_autoencoders(model, config, settings.sites),
            neutral=neutral_texts(config),
            checkpoint=checkpoint,
            progress=progress,
        )
        remove_folder(checkpoint)
        return fitted


METHOD = LinEASMethod()
