"""Fit a method to texts from files: what `sparsteer steer fit` does."""

from collections.abc import Callable

from ...sae.common.errors import InputError
from ...sae.common.wording import counted
from ...sae.language_model.model import LanguageModel
from ..detox.prompts import reporting_prompts_among
from ..registries import FIT_METHODS
from .config import FitConfig
from .fitted import Fitted
from .method import FitMethod
from .saving import require_free, save_fitted
from .sources import (
    Source,
    read_models_texts,
    read_observable,
    read_pairs,
    read_responses,
    read_scored,
    read_sets,
    read_texts,
)

_WAYS = {
    "sets": "--positive and --negative",
    "pairs": "--pairs",
    "scored": "--scored",
    "texts": "--positive alone",
    "observable": "--observable",
    "models": "--models",
    "responses": "--positive with responses",
}


def fit(
    config: FitConfig,
    model: LanguageModel | None = None,
    *,
    say: Callable[[str], None] = lambda sentence: None,
) -> Fitted:
    """Fit the method to the texts of the files, and write the folder.

    Args:
        config: what to fit to what.
        model: the language model if it is loaded already, in place of the one that is named.
        say: told what takes time.

    Raises:
        InputError: the files, the method's settings or the texts are wrong, the fit is not defined
            for them, or something else is at `config.out`.
    """
    method = FIT_METHODS.get(config.method)
    require_free(config.out, force=config.force)
    source = read_source(config, responses="responses" in method.takes)
    require_goes_with(method, source, config)
    if not config.allow_reporting_side:
        require_no_reporting_prompts(source)
    if model is None:
        model = LanguageModel.load(
            config.model or config.models[0],
            device=config.device,
            dtype=config.model_dtype,
            device_map=config.device_map,
            progress=say,
        )
    fitted = method.fit(model, source, config, say)
    save_fitted(fitted, config.out, model, force=config.force)
    return fitted


def read_source(config: FitConfig, *, responses: bool = False) -> Source:
    """The texts that the settings name.

    Args:
        config: the settings.
        responses: whether the positive ones are responses to prompts.

    Raises:
        InputError: a file is missing or broken, or has not what is needed.
    """
    field = config.text_field
    if config.observable is not None:
        return read_observable(config.texts, config.pairs, field)
    if config.models and config.texts is not None:
        with_answers = config.keep in ("gain", "loss") or config.compare == "answer"
        return read_models_texts(config.texts, field, with_answers=with_answers)
    if responses and config.positive is not None:
        return read_responses(config.positive, config.negative, field)
    if config.pairs is not None:
        return read_pairs(config.pairs)
    if config.scored is not None:
        return read_scored(
            config.scored,
            field,
            with_scores=config.score == "given",
            grouped=config.center == "group",
        )
    if config.positive is None:
        raise InputError("positive is missing; give --positive", field="positive")
    if config.negative is None:
        return read_texts(config.positive, field, what="--positive")
    return read_sets(config.positive, config.negative, field)


def require_goes_with(method: FitMethod, source: Source, config: FitConfig) -> None:
    """Raise InputError unless the method takes such texts and the settings that are given."""
    if source.kind == "texts" and config.positive is not None and "texts" not in method.takes:
        raise InputError("negative is missing; give --negative", field="negative")
    if source.kind not in method.takes:
        ways = " or ".join(_WAYS[kind] for kind in method.takes)
        raise InputError(
            f"method is {config.method}, which is not fitted to texts given by "
            f"{_WAYS[source.kind]}; give {ways}",
            field="method",
        )
    if source.kind == "texts" and config.scored is None and config.score == "entropy":
        raise InputError(
            "score is 'entropy', which is found for texts of --scored; give that", field="score"
        )
    for name in config.given():
        if name not in method.settings:
            raise InputError(f"{name} does not go with {config.method}; leave it out", field=name)


def require_no_reporting_prompts(source: Source) -> None:
    """Raise an InputError if texts are prompts on which toxicity is reported."""
    if found := len(reporting_prompts_among(source.whole_texts)):
        raise InputError(
            f"{found:,} of {counted(len(source.texts), 'text')} are RealToxicityPrompts prompts of "
            "the reporting side: what is fitted to them would be judged on them; leave them out, "
            "or give --allow-reporting-side",
            field="allow_reporting_side",
        )
