"""At how many tokens of a text steering changes anything: how often a gate is open."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ...training.evaluation.probing.result import Interval
from .reading import Steered, right_padded, text_tokens
from .statistics import mean_over_prompts, ratio_over_prompts


@dataclass(frozen=True)
class FireRate:
    """Where steering changed the activation, over some texts."""

    tokens: Interval
    """Fraction of the content tokens at which it did, with its bootstrap interval over texts."""
    texts: Interval
    """Fraction of the texts in which it did anywhere."""


@torch.no_grad()
def fire_rate(
    model: LanguageModel,
    texts: Sequence[str],
    steered: Steered,
    site: str,
    *,
    max_length: int = 128,
    batch_size: int = 8,
) -> FireRate:
    """How often steering changes a site's activation while the model reads texts.

    On ordinary texts that is what a gate should not do; beside it belongs the same rate on texts of
    the concept. An open gate behind which the edit happens to change nothing does not count.
    Padding, special tokens and the first token of a text are left out, as gates leave them out.

    Args:
        model: the language model.
        texts: what it reads, each by itself.
        steered: how it is steered.
        site: name of a site that is steered; of several the first, as later activations are
            changed by what happens there.
        max_length: tokens read of a text at most, BOS included.
        batch_size: texts in a pass.

    Raises:
        InputError: there is no such site, or no text has a content token.
    """
    place = model.site(site)
    rows = [tokens for tokens in text_tokens(model, texts, max_length) if tokens]
    rows.sort(key=len)
    fired: list[float] = []
    content: list[float] = []
    at_once = 1 if "right" in model.wrong_padding else batch_size
    for start in range(0, len(rows), at_once):
        tokens_BL, mask_BL = right_padded(model, rows[start : start + at_once])
        before: list[Tensor] = []

        def keep(acts_BLD: Tensor, before: list[Tensor] = before) -> None:
            before.append(acts_BLD.clone())  # which an edit may change in place

        # The hook outside is called first, so it sees what is steered, and `read` what comes of it.
        with model.network.hooked(site, keep), steered():
            after_BLD = place.read(tokens_BL, mask_BL)
        changed_BL = (after_BLD != before[-1]).any(-1).cpu()
        content_BL = ~model.excluded_tokens(tokens_BL, mask_BL)
        fired += map(float, (changed_BL & content_BL).sum(1))
        content += map(float, content_BL.sum(1))
    pairs = [(some, all_) for some, all_ in zip(fired, content, strict=True) if all_]
    if not pairs:
        raise InputError("no text has a token to steer at; give longer texts")
    return FireRate(
        tokens=ratio_over_prompts([some for some, _ in pairs], [all_ for _, all_ in pairs]),
        texts=mean_over_prompts([float(some > 0) for some, _ in pairs]),
    )
