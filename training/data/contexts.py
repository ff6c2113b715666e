"""From a corpus to the contexts that a language model reads, for one cache configuration."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import NamedTuple

from ...sae.common.errors import InputError
from ...sae.common.wording import counted
from ...sae.language_model.long_texts import text_pieces
from ...sae.language_model.model import LanguageModel
from ..distributed.collectives import Distributed
from .cache.config import CacheConfig
from .cache.manifest import CacheManifest, CorpusEntry
from .chat_template import written_text
from .content_tokens import ChosenContext, choose_rows
from .context_length import context_length_of
from .corpus import Corpus, Document, open_corpus
from .documents import BadRow
from .held_out import is_held_out
from .packing import TokenizedDocument, pack

_LOOKED_AT = 10_000
"""Documents that are looked through for one with text."""

_BLOCK_PIECES, _BLOCK_CHARACTERS = 64, 1_000_000
"""What a process of several tokenizes, about, before all exchange their tokens."""


def open_source_corpus(
    config: CacheConfig, previous: CacheManifest | None, say: Callable[[str], None]
) -> Corpus:
    """The corpus of the configuration; a hub data set at the commit of the cache begun before."""
    return open_corpus(
        config.dataset,
        text_field=config.text_field,
        split=config.split,
        subset=config.subset,
        skip_bad_rows=config.skip_bad_rows,
        chat=config.chat,
        revision=previous.corpus.revision if previous else None,
        progress=say,
    )


def model_loader(
    config: CacheConfig,
    model: LanguageModel | None,
    dist: Distributed,
    say: Callable[[str], None],
) -> Callable[[], LanguageModel]:
    """What gives the model of the configuration, loaded the first time unless it is given."""

    dtype = config.model_dtype
    assert dtype is not None  # `with_dtypes` has seen to it
    if config.device_map is not None and dist.world_size > 1:
        raise InputError(
            f"device_map spreads the model of one process, and here are {dist.world_size}; leave "
            "it out, or torchrun",
            field="device_map",
        )

    @cache
    def load() -> LanguageModel:
        return model or LanguageModel.load(
            config.model,
            device=dist.device(config.device),
            dtype=dtype,
            device_map=config.device_map,
            progress=say,
        )

    return load


def require_text(corpus: Corpus) -> None:
    """Raise InputError if the corpus has no text, so that no model is loaded for it."""
    documents = corpus.documents(seed=0, shuffle_buffer=1)
    empty = 0
    for _, text in documents:
        if text.strip() or empty == _LOOKED_AT:
            return
        empty += 1
    raise no_activations(corpus.dataset, empty, empty)


def no_activations(dataset: str, documents: int, empty: int) -> InputError:
    """The error about a corpus in which no position gets a row."""
    return InputError(
        f"{dataset} gives no activations: {counted(documents, 'document')}, {empty} of them empty; "
        "give a corpus with more text"
    )


class DocumentSource:
    """The documents of a corpus with text, tokenized, in order; counts those taken so far.

    Long ones come in pieces, tokenized only as far as they are taken.

    Several processes tokenize a part each and exchange their tokens, so that each has all; they
    must take documents in step.
    """

    def __init__(
        self,
        corpus: Corpus,
        model: LanguageModel,
        *,
        seed: int,
        shuffle_buffer: int,
        held_out_below: int,
        dist: Distributed,
    ) -> None:
        self.documents = self.held_out_documents = self.empty_documents = 0
        self.bad_rows = 0
        self.first_bad_row: str | None = None
        self.ended: list[str] = []
        self._pieces = _pieces(
            corpus.documents(seed=seed, shuffle_buffer=shuffle_buffer, ended=self.ended.append),
            model,
        )
        self._model = model
        self._held_out_below = held_out_below
        self._dist = dist

    def __iter__(self) -> Iterator[TokenizedDocument]:
        held_out, start = False, 0
        for piece, ids in self._tokenized():
            if piece.first:
                self.documents += 1
                if ids is None:
                    self._count_empty(piece.document.text)
                    continue
                held_out = is_held_out(piece.document.text, self._held_out_below)
                self.held_out_documents += held_out
                start = 0
            ids = ids or []
            yield TokenizedDocument(piece.document.number, ids, held_out, start, piece.last)
            start += len(ids)

    def notices(self) -> list[str]:
        """Sentences about rows that could not be read so far, and about data sets that ended before
        the others."""
        passed_over = (
            f"passed over {counted(self.bad_rows, 'row')} without a text that can be read, "
            f"the first: {self.first_bad_row}"
        )
        return [*([passed_over] if self.bad_rows else []), *self.ended]

    def _count_empty(self, text: str) -> None:
        self.empty_documents += 1
        if isinstance(text, BadRow):
            self.bad_rows += 1
            self.first_bad_row = self.first_bad_row or text.problem

    def _tokenized(self) -> Iterator[tuple["_Piece", list[int] | None]]:
        """Every piece with its tokens; None in place of those of an empty document."""
        rank, size = self._dist.rank, self._dist.world_size
        while True:
            with self._dist.errors_on_all_ranks():
                block = self._block()
                own = [self._tokens(piece) for piece in block[rank::size]]
            if not block:
                return
            parts = self._dist.all_gather_object(own)
            for place, piece in enumerate(block):
                yield piece, parts[place % size][place // size]

    def _block(self) -> list["_Piece"]:
        """The next pieces; alone only one, so that none is read in vain."""
        size = self._dist.world_size
        most = _BLOCK_PIECES * size if size > 1 else 1
        block: list[_Piece] = []
        characters = 0
        while len(block) < most and characters < _BLOCK_CHARACTERS * size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            block.append(piece)
            characters += len(piece.text)
        return block

    def _tokens(self, piece: "_Piece") -> list[int] | None:
        whole = piece.document.text
        # Not by strip(), which would copy a long document for every piece of it.
        return self._model.tokenize(piece.text) if whole and not whole.isspace() else None


class _Piece(NamedTuple):
    """A document, or a piece of a long one."""

    document: Document
    text: str
    first: bool
    last: bool


def _pieces(documents: Iterable[Document], model: LanguageModel) -> Iterator[_Piece]:
    for document in documents:
        whole, end = written_text(model, document.text), 0
        for text in text_pieces(whole) if whole else [""]:
            start, end = end, end + len(text)
            yield _Piece(document, text, start == 0, end == len(whole))


class ContextSource:
    """The contexts to read in order, and how many documents went into them so far."""

    def __init__(
        self,
        corpus: Corpus,
        model: LanguageModel,
        config: CacheConfig,
        held_out_below: int,
        dist: Distributed,
    ) -> None:
        self._documents = DocumentSource(
            corpus,
            model,
            seed=config.seed,
            shuffle_buffer=config.shuffle_buffer,
            held_out_below=held_out_below,
            dist=dist,
        )
        context_length = context_length_of(config, model)
        contexts = pack(
            self._documents,
            context_length=context_length,
            bos_id=model.bos_id,
            eos_id=model.eos_id,
        )
        self.contexts: Iterator[ChosenContext] = choose_rows(
            contexts,
            model,
            rows=config.tokens,
            held_out_rows=config.held_out_rows,
            context_length=context_length,
            at_once=config.batch_size,
        )

    def notices(self) -> list[str]:
        """Sentences about rows that could not be read so far, and about data sets that ended before
        the others."""
        return self._documents.notices()

    def count(self, entry: CorpusEntry) -> CorpusEntry:
        """The entry of the manifest with the documents so far."""
        return dataclasses.replace(
            entry,
            documents=self._documents.documents,
            held_out_documents=self._documents.held_out_documents,
            empty_documents=self._documents.empty_documents,
        )
