"""ReFT-r1 (AxBench, arXiv 2501.17148): one direction, trained so that the model, pushed along it,
writes the positive responses; see `..reft`.
"""

from dataclasses import dataclass

from ....sae.language_model.model import LanguageModel
from ..config import FitConfig
from ..fitted import Fitted
from ..method import Say
from ..reft import fit_reft
from ..sources import Source, SourceKind
from ..trained_config import ReFTConfig
from ..trained_options import OF_METHOD
from ..transport_texts import neutral_texts, only_site

_SAID_EVERY = 10


@dataclass(frozen=True)
class ReFTFit:
    """An entry of `FIT_METHODS`."""

    takes: tuple[SourceKind, ...] = ("responses",)
    settings: tuple[str, ...] = OF_METHOD["reft_r1"]

    def fit(self, model: LanguageModel, source: Source, config: FitConfig, say: Say) -> Fitted:
        """Train the direction at one site.

        Raises:
            InputError: as `fit_reft`, or several sites are given.
        """
        lengths = {} if config.max_length is None else {"max_length": config.max_length}
        settings = ReFTConfig(
            site=only_site(model, config),
            held_out=config.held_out,
            seed=config.seed,
            **lengths,
            **config.of_method("reft_r1"),
        )

        def progress(done: int, total: int, loss: float) -> None:
            if done % _SAID_EVERY == 0 or done == total:
                say(f"step {done:,} of {total:,}, loss {loss:.4g}")

        sides = list(zip(source.texts, source.answers, source.scores, strict=True))
        return fit_reft(
            model,
            [(prompt, response) for prompt, response, score in sides if score],
            [text for text, _, score in sides if not score],
            settings,
            neutral=neutral_texts(config),
            progress=progress,
        )


METHOD = ReFTFit()
