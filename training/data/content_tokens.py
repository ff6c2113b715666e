"""Which positions of which contexts get an activation row."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from ...sae.language_model.model import LanguageModel
from .packing import Context


class ChosenContext(NamedTuple):
    """A context to read, and which of its positions have a row."""

    context: Context
    is_content: Bool[np.ndarray, "N"]
    """Whether the token is content (`LanguageModel.excluded_tokens` is
    False)."""
    rows: Bool[np.ndarray, "N"]
    """The positions of content tokens that are wanted."""


def choose_rows(
    contexts: Iterator[Context],
    model: LanguageModel,
    *,
    rows: int,
    held_out_rows: int,
    context_length: int,
    at_once: int,
) -> Iterator[ChosenContext]:
    """Choose `rows` rows, `held_out_rows` of them on the held-out side, in the contexts' order.

    What a side has beyond its part is passed over until the other side has its own. Should the
    contexts end before that, what was passed over makes up for it.

    Args:
        contexts: where to choose from; read only as far as needed, `at_once` at a time.
        context_length: L, the length of all contexts but the last of each side.
    """
    missing = {False: rows - held_out_rows, True: held_out_rows}
    spare: list[ChosenContext] = []
    n_spare = 0
    for whole in content_rows(contexts, model, context_length=context_length, at_once=at_once):
        side = whole.context.held_out
        chosen = _first_rows(whole, missing[side])
        if chosen.rows.any():
            missing[side] -= int(chosen.rows.sum())
            yield chosen
        if not any(missing.values()):
            return
        rest = chosen._replace(rows=whole.rows & ~chosen.rows)
        if rest.rows.any() and n_spare < missing[not side]:
            spare.append(rest)
            n_spare += int(rest.rows.sum())
    n_missing = sum(missing.values())
    for rest in spare:
        if not n_missing:
            return
        chosen = _first_rows(rest, n_missing)
        n_missing -= int(chosen.rows.sum())
        yield chosen


def content_rows(
    contexts: Iterator[Context], model: LanguageModel, *, context_length: int, at_once: int
) -> Iterator[ChosenContext]:
    """Contexts with a row at every content token, found for `at_once` of them at a time."""
    while some := list(islice(contexts, at_once)):
        tokens = stacked([context.tokens for context in some], context_length, model.pad_id)
        is_content = ~model.excluded_tokens(tokens, text_mask(some, context_length))
        for context, flags in zip(some, is_content.numpy(), strict=True):
            own = flags[: len(context.tokens)]
            yield ChosenContext(context, own, own)


def stacked(
    arrays: Sequence[Shaped[np.ndarray, "_"]], length: int, fill: int | bool
) -> Shaped[Tensor, "C L"]:
    """Arrays as the rows of one tensor, filled up behind their ends."""
    out = torch.full((len(arrays), length), fill, dtype=torch.as_tensor(arrays[0]).dtype)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = torch.as_tensor(array)
    return out


def text_mask(contexts: Sequence[Context], length: int) -> Bool[Tensor, "C L"]:
    """Where contexts have text rather than padding."""
    lengths = torch.tensor([len(context.tokens) for context in contexts])
    return torch.arange(length) < lengths[:, None]


def _first_rows(chosen: ChosenContext, max_rows: int) -> ChosenContext:
    return chosen._replace(rows=chosen.rows & (chosen.rows.cumsum() <= max_rows))
