"""Activations of texts at several sites from one forward pass each, without gradients.

Every text is read on its own after the model's BOS token, with padding behind it, where a causal
model never looks: what else is in the batch changes nothing but rounding.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...sae.common.errors import InputError
from ...sae.common.validation import require_positive_integer
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.sites import Site, read_sites
from ..encoding import first_tokens, read_limit

MAX_LENGTH = 256
"""Tokens read of a text unless the caller says otherwise or the model's context is shorter."""

BATCH_TOKENS = 8192


@dataclass(frozen=True, eq=False)
class TextTokens:
    """A text as the model reads it."""

    ids: tuple[int, ...]
    """Token ids, the model's BOS token before them."""
    content_L: Bool[Tensor, "L"]
    """Which of them are content: neither special nor the first token behind BOS, which is an
    attention sink (`LanguageModel.excluded_tokens`)."""
    truncated: bool
    """Whether only the beginning of the text was read."""

    @property
    def n_content(self) -> int:
        """Content tokens."""
        return int(self.content_L.sum())


class CapturedText:
    """The activations of one text, at every token of `TextTokens.ids`."""

    def __init__(self, number: int, rows: Mapping[str, Float[Tensor, "L D"]]) -> None:
        self.number = number
        """Its place in the list of texts."""
        self.rows = rows
        """By the names of the sites, in the model's dtype and on its device."""


def tokenize_texts(
    model: LanguageModel, texts: Sequence[str], max_length: int | None = None
) -> list[TextTokens]:
    """The token ids of each text, at most `max_length` (by default 256) behind BOS.

    Raises:
        InputError: `max_length` is more than the model's context holds, or a text has a token that
            the model has no embedding for.
    """
    limit = read_limit(model, max_length, MAX_LENGTH)
    begin = [] if model.bos_id is None else [model.bos_id]
    found: list[TextTokens] = []
    for text in texts:
        ids, n_tokens = first_tokens(model, text, limit)
        ids_1L = torch.tensor([[*begin, *ids]], dtype=torch.int64)
        content_L = ~model.excluded_tokens(ids_1L)[0]
        found.append(TextTokens((*begin, *ids), content_L, n_tokens > len(ids)))
    return found


def sites_in_order(model: LanguageModel, names: Sequence[str]) -> list[Site]:
    """The sites of these names, each once and as the model passes them; the one after the middle
    layer if there are no names.

    Raises:
        InputError: the model has no such site.
    """
    found = {site.name: site for site in (model.site(name) for name in names or (None,))}
    order = model.site_names
    return [found[name] for name in sorted(found, key=order.index)]


def padded(
    model: LanguageModel, texts: Sequence[TextTokens]
) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """Tokens and attention mask of a batch, with padding behind each text."""
    longest = max(len(text.ids) for text in texts)
    tokens_BL = torch.full((len(texts), longest), model.pad_id)
    mask_BL = torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, text in enumerate(texts):
        tokens_BL[row, : len(text.ids)] = torch.tensor(text.ids)
        mask_BL[row, : len(text.ids)] = True
    return tokens_BL, mask_BL


def batches_by_length(
    texts: Sequence[TextTokens], batch_size: int, most_tokens: int = BATCH_TOKENS
) -> Iterator[list[int]]:
    """Places of texts that are read together, the longest first, so that memory peaks early; texts
    without any token are left out.

    Args:
        texts: of `tokenize_texts`.
        batch_size: texts in one forward pass, at most; fewer where texts are long.
        most_tokens: tokens in one forward pass, padding included, unless one text has more.

    Raises:
        InputError: `batch_size` is no whole number from 1.
    """
    require_positive_integer("batch_size", batch_size)
    with_tokens = [number for number, text in enumerate(texts) if text.ids]
    order = sorted(with_tokens, key=lambda number: -len(texts[number].ids))
    while order:
        fitting = max(1, most_tokens // len(texts[order[0]].ids))
        n_texts = min(batch_size, fitting)
        yield order[:n_texts]
        order = order[n_texts:]


def capture(
    model: LanguageModel, sites: Sequence[Site], texts: Sequence[TextTokens], batch_size: int = 16
) -> Iterator[CapturedText]:
    """Read texts and give the activations of each, from the longest to the shortest.

    A model that takes padding behind a text for text reads each text alone. Within `Site.write`,
    and whatever else edits the model, the edited activations are read.

    Args:
        model: the language model.
        sites: where to read; one forward pass reads all of them and ends at the last.
        texts: of `tokenize_texts`; those without any token are passed over.
        batch_size: texts in one forward pass, at most; fewer where texts are long.
    """
    at_once = 1 if "right" in model.wrong_padding else batch_size
    for numbers in batches_by_length(texts, at_once):
        batch = [texts[number] for number in numbers]
        tokens_BL, mask_BL = padded(model, batch)
        acts = read_sites(model, sites, tokens_BL, mask_BL)
        for row, number in enumerate(numbers):
            length = len(texts[number].ids)
            yield CapturedText(number, {name: a[row, :length] for name, a in acts.items()})


def require_finite_rows(rows_ND: Float[Tensor, "N D"], site: str) -> None:
    """Raise InputError if an activation is NaN or infinite, of which no direction can be fitted."""
    if not bool(rows_ND.isfinite().all()):
        raise InputError(
            f"the activations at {site} have NaN or infinite values; try --model-dtype float32 or "
            "check the model's weights"
        )
