"""Rows: as many on each side as wanted, in order, and no context read in vain."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.training.data.content_tokens import ChosenContext, choose_rows, stacked, text_mask
from sparsteer.training.data.packing import Context

LENGTH = 8
BOS, EOS = 1, 2


def context(n_tokens: int, held_out: bool) -> Context:
    """BOS and tokens; every fourth of them is EOS."""
    tokens = np.array([BOS, *(EOS if i % 4 == 3 else 7 for i in range(n_tokens - 1))])
    where = np.arange(n_tokens)
    return Context(tokens, where, where, held_out)


@st.composite
def context_lists(draw: st.DrawFn) -> list[Context]:
    """Full contexts of both sides, and a short last one of each."""
    sides = draw(st.lists(st.booleans(), max_size=15))
    last = [context(draw(st.integers(2, LENGTH)), side) for side in (False, True)]
    return [*(context(LENGTH, side) for side in sides), *last]


def choose(
    contexts: list[Context], model: LanguageModel, rows: int, held_out: int, at_once: int = 4
) -> list[ChosenContext]:
    return list(
        choose_rows(
            iter(contexts),
            model,
            rows=rows,
            held_out_rows=held_out,
            context_length=LENGTH,
            at_once=at_once,
        )
    )


def is_content(one: Context, model: LanguageModel) -> list[bool]:
    tokens = torch.as_tensor(one.tokens)[None]
    return [not flag for flag in model.excluded_tokens(tokens)[0]]


@given(context_lists(), st.integers(1, 70), st.floats(0, 1), st.integers(1, 5))
def test_laws(
    tiny_model: LanguageModel, contexts: list[Context], rows: int, fraction: float, at_once: int
) -> None:
    held_out = int(rows * fraction)
    chosen = choose(contexts, tiny_model, rows, held_out, at_once)
    n_there = {
        side: sum(sum(is_content(c, tiny_model)) for c in contexts if c.held_out == side)
        for side in (False, True)
    }
    n_chosen = {
        side: sum(int(one.rows.sum()) for one in chosen if one.context.held_out == side)
        for side in (False, True)
    }
    wanted = {False: rows - held_out, True: held_out}
    assert sum(n_chosen.values()) == min(rows, sum(n_there.values()))
    for side in (False, True):
        # A side gets what it wants if it has it, and more only where the other has too little.
        assert n_chosen[side] >= min(wanted[side], n_there[side])
        if n_there[not side] >= wanted[not side]:
            assert n_chosen[side] <= wanted[side]
    for one in chosen:
        assert list(one.is_content) == is_content(one.context, tiny_model)
        assert one.rows.any()
    rows_of = Counter((id(one.context), int(p)) for one in chosen for p in np.flatnonzero(one.rows))
    positions = {
        (id(c), p) for c in contexts for p, flag in enumerate(is_content(c, tiny_model)) if flag
    }
    assert set(rows_of) <= positions
    assert set(rows_of.values()) <= {1}


def test_only_the_last_context_of_a_side_is_cut(tiny_model: LanguageModel) -> None:
    contexts = [context(LENGTH, side) for side in (False, True) * 10]
    chosen = choose(contexts, tiny_model, 23, 7)
    for side in (False, True):
        of_side = [one for one in chosen if one.context.held_out == side]
        assert all(np.array_equal(one.rows, one.is_content) for one in of_side[:-1])


def test_no_more_contexts_are_read_than_needed(tiny_model: LanguageModel) -> None:
    contexts = iter([context(LENGTH, False) for _ in range(100)])
    chosen = choose_rows(
        contexts, tiny_model, rows=9, held_out_rows=0, context_length=LENGTH, at_once=2
    )
    assert len(list(chosen)) == 2
    assert len(list(contexts)) == 98


def test_a_full_side_waits_for_the_other(tiny_model: LanguageModel) -> None:
    sides = [False] * 6 + [True] * 2 + [False]
    chosen = choose([context(LENGTH, side) for side in sides], tiny_model, 10, 5)
    assert [one.context.held_out for one in chosen] == [False, True]


def test_contexts_passed_over_make_up_for_a_side_that_has_too_few(
    tiny_model: LanguageModel,
) -> None:
    contexts = [context(LENGTH, False) for _ in range(6)]
    chosen = choose(contexts, tiny_model, 12, 7)
    assert sum(int(one.rows.sum()) for one in chosen) == 12
    assert {id(one.context) for one in chosen} == {id(one) for one in contexts[:3]}


@pytest.mark.parametrize("fill", [0, 9])
def test_stacked(fill: int) -> None:
    arrays = [np.array([1, 2, 3]), np.array([4]), np.array([5, 6])]
    found = stacked(arrays, 4, fill)
    assert found.dtype == torch.int64
    expected: Tensor = torch.tensor([[1, 2, 3, fill], [4, fill, fill, fill], [5, 6, fill, fill]])
    assert torch.equal(found, expected)


def test_text_mask() -> None:
    mask = text_mask([context(3, False), context(LENGTH, True)], LENGTH)
    assert mask.sum(dim=1)[0] == 3
    assert mask[0, :3].all()
    assert mask[1].all()
