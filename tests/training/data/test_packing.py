"""Packing keeps every token once and in order, and never mixes held-out with training documents."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.sae.common.errors import InputError
from sparsteer.training.data.packing import (
    NO_DOCUMENT,
    Context,
    TokenizedDocument,
    pack,
)

BOS, EOS = 1, 2


@st.composite
def corpora(draw: st.DrawFn) -> list[TokenizedDocument]:
    sides = draw(st.lists(st.booleans(), max_size=12))
    numbers = draw(st.permutations(range(len(sides))))
    ids = st.lists(st.integers(3, 99), max_size=40)
    return [
        TokenizedDocument(7 * n, draw(ids), side) for n, side in zip(numbers, sides, strict=True)
    ]


def text_columns(context: Context, bos_id: int | None) -> list[tuple[int, int, int]]:
    """(token, doc, position) of a context without its BOS, whose columns are checked."""
    columns = list(
        zip(context.tokens.tolist(), context.doc.tolist(), context.position.tolist(), strict=True)
    )
    if bos_id is None:
        return columns
    assert columns[0] == (bos_id, NO_DOCUMENT, NO_DOCUMENT)
    return columns[1:]


@given(corpora(), st.integers(2, 17), st.sampled_from([BOS, None]), st.sampled_from([EOS, None]))
def test_every_token_once_in_order(
    documents: list[TokenizedDocument], length: int, bos_id: int | None, eos_id: int | None
) -> None:
    contexts = list(pack(documents, context_length=length, bos_id=bos_id, eos_id=eos_id))
    for side in (False, True):
        streamed = [
            column
            for context in contexts
            if context.held_out == side
            for column in text_columns(context, bos_id)
        ]
        end = [] if eos_id is None else [eos_id]
        assert streamed == [
            (token, document.number, position)
            for document in documents
            if document.held_out == side and document.ids
            for position, token in enumerate(document.ids + end)
        ]


@given(corpora(), st.integers(2, 17))
def test_sides_never_share_a_context_and_only_the_last_is_short(
    documents: list[TokenizedDocument], length: int
) -> None:
    sides = {document.number: document.held_out for document in documents}
    lengths: defaultdict[bool, list[int]] = defaultdict(list)
    for context in pack(documents, context_length=length, bos_id=BOS, eos_id=EOS):
        assert {sides[doc] for doc in context.doc[1:].tolist()} == {context.held_out}
        lengths[context.held_out].append(len(context.tokens))
    for found in lengths.values():
        assert set(found[:-1]) <= {length}
        assert 2 <= found[-1] <= length


def test_contexts_come_as_soon_as_they_are_full() -> None:
    def source() -> Iterator[TokenizedDocument]:
        yield TokenizedDocument(0, list(range(3, 13)), False)
        raise AssertionError("read further than needed")

    contexts = pack(source(), context_length=5, bos_id=BOS, eos_id=EOS)
    assert next(contexts).tokens.tolist() == [BOS, 3, 4, 5, 6]
    assert next(contexts).tokens.tolist() == [BOS, 7, 8, 9, 10]


def test_no_room_for_text() -> None:
    with pytest.raises(InputError, match="context_length is 1"):
        next(pack([], context_length=1, bos_id=BOS, eos_id=EOS))


@given(corpora(), st.data(), st.integers(2, 17))
def test_a_document_in_pieces_is_packed_as_a_whole(
    documents: list[TokenizedDocument], data: st.DataObject, length: int
) -> None:
    pieces: list[TokenizedDocument] = []
    for document in documents:
        n_tokens = len(document.ids)
        cuts = sorted(data.draw(st.lists(st.integers(0, n_tokens), max_size=3)))
        for start, end in pairwise([0, *cuts, None]):
            assert start is not None
            ids, ends = document.ids[start:end], end is None
            pieces.append(document._replace(ids=ids, start=start, ends=ends))
    options = {"context_length": length, "bos_id": BOS, "eos_id": EOS}
    found, whole = pack(pieces, **options), pack(documents, **options)
    for one, other in zip(found, whole, strict=True):
        assert one.held_out == other.held_out
        assert all(np.array_equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
