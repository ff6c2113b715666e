"""How many tokens the contexts of a corpus have: what was asked for, or what a model can read."""

from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from .corpus_config import DEFAULT_CONTEXT_LENGTH, CorpusConfig


def context_length_of(config: CorpusConfig, model: LanguageModel) -> int:
    """L, the length of contexts: `config.context_length`, by default 128, or as many tokens as the
    model reads if those are fewer.

    Raises InputError if a length was given that the model cannot read.
    """
    if config.context_length is None:
        return min(DEFAULT_CONTEXT_LENGTH, model.max_context)
    if config.context_length > model.max_context:
        raise InputError(
            f"context_length is {config.context_length}, but {model.name} reads at most "
            f"{model.max_context} tokens; lower it",
            field="context_length",
        )
    return config.context_length
