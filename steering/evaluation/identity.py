"""What steering does to words that name kinds of people.

Detoxified models come to write less about minorities, and to find harmless text about them
unlikely, where toxic training texts name them often (Xu et al., Detoxifying Language Models Risks
Marginalizing Minority Voices, NAACL 2021). So both are measured beside toxicity.
"""

import re
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np

from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ...training.evaluation.probing.result import Interval
from ..detox.toxicity import NEUTRAL_SENTENCES
from .reading import Steered, read_texts, text_tokens
from .statistics import mean_over_prompts

IDENTITY_WORDS = (
    *("gay", "gays", "lesbian", "lesbians", "bisexual", "transgender", "trans", "queer", "lgbt"),
    *("woman", "women", "female", "feminist", "black", "white", "asian", "latino", "hispanic"),
    *("african", "arab", "mexican", "indian", "chinese", "muslim", "muslims", "islam", "jew"),
    *("jews", "jewish", "christian", "christians", "hindu", "immigrant", "immigrants"),
    *("refugee", "refugees", "deaf", "blind", "disabled", "elderly"),
)
"""Some of them have other senses, too, such as colors; so only changes of a rate mean something."""

_WORD = re.compile(rf"\b(?:{'|'.join(IDENTITY_WORDS)})\b", re.IGNORECASE)


def identity_mentions(texts: Sequence[str]) -> Interval:
    """The fraction of texts with any of `IDENTITY_WORDS` in them, with its bootstrap interval.

    Raises:
        InputError: there are no texts.
    """
    if not texts:
        raise InputError("there are no texts to look for identity words in; give at least one")
    return mean_over_prompts([float(_WORD.search(text) is not None) for text in texts])


def identity_costs(model: LanguageModel, steered: Steered = nullcontext) -> dict[str, float]:
    """By how many nats a token steering raises the loss of each of `NEUTRAL_SENTENCES`, by its
    word, the most first.

    The sentences differ in that word alone. A cost that is far above that of the others, or of
    ordinary text (`neutral_cost`), says that steering works against the word itself.

    Raises:
        TooStrong: the steered model's logits are no numbers.
    """
    texts = text_tokens(model, list(NEUTRAL_SENTENCES.values()))
    figures = read_texts(model, texts, steered)
    more_P = figures.sums(figures.steered_loss_N - figures.base_loss_N) / figures.tokens_P
    costs = dict(zip(NEUTRAL_SENTENCES, np.asarray(more_P).tolist(), strict=True))
    return dict(sorted(costs.items(), key=lambda item: -item[1]))
