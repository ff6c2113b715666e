"""Documents to contexts of one length, without mixing the held-out documents into the others.

The tokens of the documents, with EOS after each, form one stream for the training documents and one
for the held-out ones. Each stream is cut into contexts: BOS and the next tokens of the stream.
Nothing is dropped: a document goes on in the next context, and only the last context of a stream is
short.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from ...sae.common.errors import InputError

NO_DOCUMENT = -1
"""Stands for document and position at BOS; the EOS behind a document has its number, and the
document's length as position."""


class TokenizedDocument(NamedTuple):
    """The tokens of a document or of a piece of a long one, without special tokens added."""

    number: int
    """Its number in the corpus."""
    ids: list[int]
    held_out: bool
    start: int = 0
    """Tokens of the document before these."""
    ends: bool = True
    """Whether the document ends with these; if not, its next piece follows."""


class Context(NamedTuple):
    """One row for the language model, with where each of its tokens is from."""

    tokens: Int[np.ndarray, "N"]
    """int64: BOS (if the model has one) and tokens of one or several documents."""
    doc: Int[np.ndarray, "N"]
    """int64: the number of the token's document."""
    position: Int[np.ndarray, "N"]
    """int64: the token's position in its document."""
    held_out: bool
    """Whether all its documents are held-out ones; if not, none is."""


def pack(
    documents: Iterable[TokenizedDocument],
    *,
    context_length: int,
    bos_id: int | None,
    eos_id: int | None,
) -> Iterator[Context]:
    """Pack documents into contexts of `context_length` tokens, BOS included, as they fill up.

    A document without tokens leaves no trace; one in pieces is packed as if it were whole. Without
    `bos_id` contexts begin with text; without `eos_id` documents follow each other directly.

    Raises InputError if `context_length` leaves no room for text.
    """
    room = context_length - (bos_id is not None)
    if room < 1:
        raise InputError(
            f"context_length is {context_length}, which leaves no room for text",
            field="context_length",
        )
    streams = {side: _Stream(room, bos_id, eos_id, held_out=side) for side in (False, True)}
    for document in documents:
        if document.ids or (document.start and document.ends):
            yield from streams[document.held_out].add(document)
    for stream in streams.values():
        yield from stream.rest()


class _Stream:
    """The tokens of one side that fill no context yet, as a [3, N] array: token, doc, position."""

    def __init__(
        self, room: int, bos_id: int | None, eos_id: int | None, *, held_out: bool
    ) -> None:
        self.room = room
        self.eos = [] if eos_id is None else [eos_id]
        bos = [] if bos_id is None else [[bos_id], [NO_DOCUMENT], [NO_DOCUMENT]]
        self.bos = np.array(bos, dtype=np.int64).reshape(3, -1)
        self.waiting = np.empty((3, 0), dtype=np.int64)
        self.held_out = held_out

    def add(self, document: TokenizedDocument) -> Iterator[Context]:
        ids = np.array(document.ids + (self.eos if document.ends else []), dtype=np.int64)
        position = np.arange(document.start, document.start + len(ids))
        columns = np.stack([ids, np.full_like(ids, document.number), position])
        self.waiting = np.concatenate([self.waiting, columns], axis=1)
        n_full = self.waiting.shape[1] // self.room
        for start in range(0, n_full * self.room, self.room):
            yield self._context(self.waiting[:, start : start + self.room])
        self.waiting = self.waiting[:, n_full * self.room :]

    def rest(self) -> Iterator[Context]:
        if self.waiting.shape[1]:
            yield self._context(self.waiting)

    def _context(self, columns: Int[np.ndarray, "3 N"]) -> Context:
        tokens, doc, position = np.concatenate([self.bos, columns], axis=1)
        return Context(tokens, doc, position, self.held_out)
