"""Chunks of a stream of activations: parts of a corpus, tokenized and packed, in a fixed order."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Int

from ....sae.common.errors import InputError
from ....sae.language_model.model import LanguageModel
from ..chat_template import written_text
from ..content_tokens import ChosenContext, content_rows
from ..context_length import context_length_of
from ..corpus import Corpus, Document
from ..held_out import held_out_bound, is_held_out
from ..packing import TokenizedDocument, pack
from ..shuffling import random_order
from .chunk_index import ChunkIndex, ChunkStart
from .config import StreamConfig


@dataclass(frozen=True)
class StreamChunk:
    """Contexts whose rows are shuffled together."""

    seed: int
    start: ChunkStart
    contexts: list[ChosenContext]

    @cached_property
    def n_rows(self) -> int:
        """Rows of all contexts."""
        return sum(int(context.rows.sum()) for context in self.contexts)

    def order(self) -> Int[np.ndarray, "M"]:
        """How the rows are shuffled."""
        return random_order(f"{self.seed}/{self.start.row}", self.n_rows)

    def is_same(self, other: "StreamChunk") -> bool:
        """Whether it is the same part of the same stream."""
        return (self.seed, self.start) == (other.seed, other.start)


class ChunkSource:
    """The chunks of a corpus for one model and one configuration."""

    def __init__(
        self,
        config: StreamConfig,
        corpus: Corpus,
        model: LanguageModel,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """`say` is told once where a data set of a mixture ends before the others."""
        self._config = config
        self._corpus = corpus
        self._model = model
        self._say = say
        self._said: set[str] = set()
        self._context_length = context_length_of(config, model)
        self._held_out_below = held_out_bound(corpus, config.held_out_fraction)

    def from_row(self, row: int, *, rows: int, seed: int, path: Path) -> Iterator[StreamChunk]:
        """The chunks from the one that holds the row on, until there are so many rows in all.

        Args:
            path: file of the known chunk starts; new ones are added.

        Raises InputError if the corpus gives no rows, or cannot be read.
        """
        chunk_index = ChunkIndex(path, seed)
        start = chunk_index.last_before(row)
        text = self._text(seed, start)
        found_some = start != (start.row, start.epoch, 0, 0)  # in this epoch
        while start.row < rows:
            # At least a whole context, in which some token has a row.
            most = max(self._config.chunk_rows, self._context_length)
            taken = text.take(min(most, self._tokens_for(rows - start.row)))
            chunk = StreamChunk(seed, start, self._contexts(taken))
            if chunk.n_rows:
                found_some = True
                chunk_index.add(start)
                if start.row + chunk.n_rows > row:
                    yield chunk
            start = ChunkStart(start.row + chunk.n_rows, start.epoch, text.document, text.token)
            if not taken:
                if not found_some:
                    raise InputError(
                        f"{self._corpus.dataset} gives no training rows; give more text, or a "
                        "lower --held-out-fraction"
                    )
                start, found_some = ChunkStart(start.row, start.epoch + 1, 0), False
                text = self._text(seed, start)

    def held_out(self, n_rows: int) -> list[ChosenContext]:
        """The first held-out contexts with so many rows, or a few more; fewer if there are not
        more."""
        if not self._held_out_below:
            return []
        text = self._text(0, ChunkStart(0, 0, 0), held_out=True)
        return self._contexts(text.take(self._tokens_for(n_rows)))

    def _text(self, seed: int, start: ChunkStart, *, held_out: bool = False) -> "_Text":
        """The documents of one side of an epoch; texts before the place are read, no more."""
        if start.epoch:
            digest = hashlib.sha256(f"{seed}/{start.epoch}".encode()).digest()
            seed = int.from_bytes(digest[:8], "big")
        documents = self._corpus.documents(
            seed=seed,
            shuffle_buffer=self._config.shuffle_buffer,
            ended=_unheard if held_out else self._tell_once,
        )

        def tokens(text: str) -> Iterator[list[int]]:
            wanted = text.strip() and is_held_out(text, self._held_out_below) == held_out
            if not wanted:
                return iter(())
            return self._model.token_pieces(written_text(self._model, text))

        return _Text(documents, tokens, start)

    def _tell_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            self._say(sentence)

    def _contexts(self, documents: list[TokenizedDocument]) -> list[ChosenContext]:
        length, model = self._context_length, self._model
        contexts = pack(documents, context_length=length, bos_id=model.bos_id, eos_id=model.eos_id)
        at_once = self._config.forward_contexts
        return list(content_rows(contexts, model, context_length=length, at_once=at_once))

    def _tokens_for(self, n_rows: int) -> int:
        """Tokens that give so many rows or a few more: BOS and the next of a context have none."""
        length = self._context_length
        return n_rows * length // (length - 2) + length


def _unheard(sentence: str) -> None:
    pass


class _Text:
    """Tokens of documents, taken so many at a time; a document may be cut.

    Attributes:
        document, token: where what is left begins, as in `ChunkStart`.
    """

    def __init__(
        self,
        documents: Iterator[Document],
        tokens: Callable[[str], Iterator[list[int]]],
        start: ChunkStart,
    ) -> None:
        """`tokens` gives those of a text piece by piece, none for one that is not wanted."""
        self._documents = islice(documents, start.document, None)
        self._tokens = tokens
        self._opened: _OpenDocument | None = None
        self.document, self.token = start.document, start.token

    def take(self, n_tokens: int) -> list[TokenizedDocument]:
        """The next so many tokens, by document; fewer at the end."""
        taken: list[TokenizedDocument] = []
        while n_tokens > 0 and (opened := self._opened or self._next()) is not None:
            self._opened = opened
            ids = opened.take(n_tokens)
            if ids:
                taken.append(TokenizedDocument(opened.number, ids, held_out=False))
            n_tokens -= len(ids)
            self.token += len(ids)
            if opened.ended:
                self._opened = None
                self.document, self.token = self.document + 1, 0
        return taken

    def _next(self) -> "_OpenDocument | None":
        document = next(self._documents, None)
        if document is None:
            return None
        opened = _OpenDocument(document.number, self._tokens(document.text))
        opened.skip(self.token)
        return opened


class _OpenDocument:
    """The tokens of a document that are left, tokenized as they are taken."""

    def __init__(self, number: int, pieces: Iterator[list[int]]) -> None:
        self.number = number
        self._pieces = pieces
        self._held: list[int] = []
        self._fill()

    @property
    def ended(self) -> bool:
        """Whether nothing is left."""
        return not self._held

    def take(self, n_tokens: int) -> list[int]:
        """The next so many tokens; fewer at the end."""
        taken: list[int] = []
        while self._held and len(taken) < n_tokens:
            missing = n_tokens - len(taken)
            taken += self._held[:missing]
            self._held = self._held[missing:]
            self._fill()
        return taken

    def skip(self, n_tokens: int) -> None:
        """Pass over the next so many tokens."""
        while self._held and n_tokens > 0:
            n_passed = min(n_tokens, len(self._held))
            n_tokens -= n_passed
            self._held = self._held[n_passed:]
            self._fill()

    def _fill(self) -> None:
        """Go on to the next piece with a token if none is left of this one."""
        while not self._held and (piece := next(self._pieces, None)) is not None:
            self._held = piece
