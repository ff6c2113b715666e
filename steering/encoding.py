"""Texts through language model, site and autoencoder: the codes of their content tokens.

Content tokens are all but BOS, padding and other special tokens, and the attention sink at the
start of a text (`LanguageModel.excluded_tokens`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..kernels.codes import Codes
from ..sae.autoencoder import SparseAutoencoder
from ..sae.common.errors import InputError
from ..sae.common.validation import require_positive_integer
from ..sae.compatibility import require_fits
from ..sae.language_model.model import LanguageModel
from ..sae.language_model.sites import Site

DEFAULT_MAX_LENGTH = 1024
"""Tokens read of a text unless the caller says otherwise or the model's context is shorter."""

_WINDOW_TOKENS = 65_536
_WINDOW_TEXTS = 4096
_BATCH_TOKENS = 8192


@dataclass(frozen=True, eq=False)
class EncodedText:
    """What was read of one text, on the CPU."""

    tokens: Int[Tensor, "T"]
    """int64: ids of the tokens that were read, BOS not among them."""
    kept: Bool[Tensor, "T"]
    """Which of them are content tokens; codes are given for these only."""
    codes: Codes
    """Codes [C, M] of the C content tokens, in order. None at all (C = 0) for an empty text, and
    for one so short that every token is left out."""
    n_tokens: int
    """Tokens of the whole text, those beyond `max_length` included."""
    mean_activation_D: Float[Tensor, "D"] | None = None
    """The mean of the content tokens' raw activations, in float32; 0 where there are none. None
    unless it was asked for."""

    @property
    def truncated(self) -> bool:
        """Whether only the beginning of the text was read."""
        return self.n_tokens > len(self.tokens)

    @property
    def empty(self) -> bool:
        """Whether the text has no token at all."""
        return self.n_tokens == 0


def encode_texts(
    model: LanguageModel,
    site: Site,
    sae: SparseAutoencoder,
    texts: Iterable[str | Sequence[int]],
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    mean_activations: bool = False,
) -> Iterator[EncodedText]:
    """Read texts and yield the codes of each one's content tokens, in the order of the texts.

    The texts are taken a window at a time (65,536 tokens) and sorted by length inside it, so that
    batches have little padding and memory stays bounded however many texts there are. Each is read
    on its own after the model's BOS token, so batching changes nothing but rounding.

    Args:
        model, site, sae: the language model, one of its sites, and an autoencoder of that site.
        texts: texts, or lists of token ids without BOS. Half of a surrogate pair, which is no
            character, is read as a question mark.
        batch_size: texts in one forward pass, at most; fewer where texts are long.
        max_length: tokens read of each text, BOS not counted; the rest is dropped, and
            `EncodedText.truncated` says so. By default 1024, or the model's context if shorter.
        mean_activations: whether to give each text's mean raw activation, too.

    Raises:
        InputError: the autoencoder has another width than the site, or a limit is out of range.
    """
    limit = read_limit(model, max_length)
    require_positive_integer("batch_size", batch_size)
    require_fits(sae, site=site)
    return _encode(model, site, sae, texts, batch_size, limit, mean_activations)


def first_tokens(model: LanguageModel, text: str, limit: int) -> tuple[list[int], int]:
    """At most `limit` token ids of a text as `encode_texts` reads it, and how many it has in all.

    BOS is not among them. A long text is tokenized in pieces, and no more is held of it.
    """
    first: list[int] = []
    n_tokens = 0
    for ids in model.token_pieces(only_characters(text)):
        first += ids[: limit - len(first)]
        n_tokens += len(ids)
    return first, n_tokens


def only_characters(text: str) -> str:
    """The text with a question mark for every lone surrogate, which no tokenizer can read.

    A word of a command line has one for each byte that is not UTF-8.
    """
    return text.encode("utf-8", errors="replace").decode("utf-8")


def read_limit(
    model: LanguageModel, max_length: int | None, default: int = DEFAULT_MAX_LENGTH
) -> int:
    """How many tokens `encode_texts` reads of each text under this `max_length`; for None the
    default, or what the model's context holds if that is less.

    Raises InputError if it is out of range for the model.
    """
    room = model.max_context - len(_prefix(model))
    if max_length is None:
        return min(default, room)
    if not 1 <= max_length <= room:
        raise InputError(
            f"max_length is {max_length}; it must lie between 1 and the {room} tokens that the "
            f"context of {model.name} holds",
            field="max_length",
        )
    return max_length


def _prefix(model: LanguageModel) -> list[int]:
    return [] if model.bos_id is None else [model.bos_id]


def _encode(
    model: LanguageModel,
    site: Site,
    sae: SparseAutoencoder,
    texts: Iterable[str | Sequence[int]],
    batch_size: int,
    limit: int,
    mean_activations: bool,
) -> Iterator[EncodedText]:
    for window in _windows(model, texts, limit):
        found: dict[int, EncodedText] = {}
        for batch in _batches([len(tokens) for tokens, _ in window], batch_size):
            encoded = _encode_batch(model, site, sae, [window[i] for i in batch], mean_activations)
            found.update(zip(batch, encoded, strict=True))
        yield from (found[i] for i in range(len(window)))


def _windows(
    model: LanguageModel, texts: Iterable[str | Sequence[int]], limit: int
) -> Iterator[list[tuple[list[int], int]]]:
    """Runs of texts as (tokens to read, tokens there are), each run small enough to hold."""
    window: list[tuple[list[int], int]] = []
    held = 0
    for text in texts:
        if isinstance(text, str):
            window.append(first_tokens(model, text, limit))
        else:
            window.append((list(text[:limit]), len(text)))
        held += len(window[-1][0])
        if held >= _WINDOW_TOKENS or len(window) >= _WINDOW_TEXTS:
            yield window
            window, held = [], 0
    if window:
        yield window


def _batches(lengths: list[int], batch_size: int) -> Iterator[list[int]]:
    """Positions of texts for one forward pass each, longest first, so that memory peaks early."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        fitting = max(1, _BATCH_TOKENS // max(1, lengths[order[0]]))
        n_texts = min(batch_size, fitting)
        yield order[:n_texts]
        order = order[n_texts:]


@torch.no_grad()
def _encode_batch(
    model: LanguageModel,
    site: Site,
    sae: SparseAutoencoder,
    batch: list[tuple[list[int], int]],
    mean_activations: bool,
) -> list[EncodedText]:
    prefix = _prefix(model)
    longest = len(prefix) + max(len(tokens) for tokens, _ in batch)
    if longest == len(prefix):
        kept_BL = torch.zeros(len(batch), longest, dtype=torch.bool)
        acts_CD = sae.W_enc.new_empty(0, sae.config.d_model)
        codes = sae.encode(acts_CD)
    else:
        # Padding stands behind the text, where a causal model's real positions never look.
        tokens_BL = torch.full((len(batch), longest), model.pad_id)
        mask_BL = torch.zeros(len(batch), longest, dtype=torch.bool)
        for row, (tokens, _) in enumerate(batch):
            read = prefix + tokens
            tokens_BL[row, : len(read)] = torch.tensor(read)
            mask_BL[row, : len(read)] = True
        kept_BL = ~model.excluded_tokens(tokens_BL, mask_BL).cpu()
        acts_BLD = site.read(tokens_BL, mask_BL)
        acts_CD = acts_BLD[kept_BL.to(acts_BLD.device)]
        codes = sae.encode(acts_CD.to(sae.W_enc.device))
    return _split(codes, acts_CD if mean_activations else None, kept_BL, len(prefix), batch)


def _split(
    codes: Codes,
    acts_CD: Tensor | None,
    kept_BL: Tensor,
    n_prefix: int,
    batch: list[tuple[list[int], int]],
) -> list[EncodedText]:
    """The batch's codes, without the slots that none of its tokens uses, and mean activations as
    those of each text."""
    means_BD: Sequence[Tensor | None] = [None] * len(batch)
    if acts_CD is not None:
        lengths = [int(kept_L.sum()) for kept_L in kept_BL]
        sums = [rows_TD.float().sum(0) for rows_TD in torch.split(acts_CD, lengths)]
        sizes_B = torch.tensor(lengths).clamp(min=1)
        means_BD = list(torch.stack(sums).cpu() / rearrange(sizes_B, "b -> b 1"))
    indices, values = codes.indices.cpu(), codes.values.cpu()
    counts = None if codes.counts is None else codes.counts.cpu()
    results: list[EncodedText] = []
    end = 0
    for (tokens, n_tokens), kept_L, mean_D in zip(batch, kept_BL, means_BD, strict=True):
        kept_T = kept_L[n_prefix : n_prefix + len(tokens)].clone()
        rows = slice(end, end + int(kept_T.sum()))
        end = rows.stop
        own_counts = None if counts is None else counts[rows].clone()
        width = indices.shape[-1]
        if own_counts is not None:
            width = max(1, int(own_counts.max())) if len(own_counts) else 1
        # Copies, so that keeping one text does not keep its whole batch in memory.
        own = Codes(indices[rows, :width].clone(), values[rows, :width].clone(), own_counts)
        read = torch.tensor(tokens, dtype=torch.int64)
        results.append(EncodedText(read, kept_T, own, n_tokens, mean_D))
    return results
