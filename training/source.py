"""From a corpus to the contexts that a language model reads, for one cache configuration."""

import dataclasses
from collections.abc import Callable, Iterator

from ..sae.errors import InputError
from ..sae.language_model import LanguageModel
from .cache_config import CacheConfig
from .corpus import Corpus, open_corpus
from .held_out import is_held_out
from .manifest import CacheManifest, CorpusEntry
from .packing import TokenisedDocument, pack
from .rows import ChosenContext, choose_rows

_LOOKED_AT = 10_000
"""Documents that are looked through for one with text."""


def open_source_corpus(
    config: CacheConfig, previous: CacheManifest | None, say: Callable[[str], None]
) -> Corpus:
    """The corpus of the configuration; a hub data set at the commit of the cache begun before."""
    return open_corpus(
        config.dataset,
        text_field=config.text_field,
        split=config.split,
        subset=config.subset,
        revision=previous.corpus.revision if previous else None,
        progress=say,
    )


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
        f"{dataset} gives no activations: {documents} documents, {empty} of them empty; "
        "give a corpus with more text"
    )


class ContextSource:
    """The contexts to read in order, and how many documents went into them so far."""

    def __init__(
        self, corpus: Corpus, model: LanguageModel, config: CacheConfig, held_out_below: int
    ) -> None:
        self.documents = self.held_out_documents = self.empty_documents = 0
        contexts = pack(
            self._tokenised(corpus, model, config, held_out_below),
            context_length=config.context_length,
            bos_id=model.bos_id,
            eos_id=model.eos_id,
        )
        self.contexts: Iterator[ChosenContext] = choose_rows(
            contexts,
            model,
            rows=config.tokens,
            held_out_rows=config.held_out_rows,
            context_length=config.context_length,
            at_once=config.batch_size,
        )

    def count(self, entry: CorpusEntry) -> CorpusEntry:
        """The entry of the manifest with the documents so far."""
        return dataclasses.replace(
            entry,
            documents=self.documents,
            held_out_documents=self.held_out_documents,
            empty_documents=self.empty_documents,
        )

    def _tokenised(
        self, corpus: Corpus, model: LanguageModel, config: CacheConfig, held_out_below: int
    ) -> Iterator[TokenisedDocument]:
        documents = corpus.documents(seed=config.seed, shuffle_buffer=config.shuffle_buffer)
        for number, text in documents:
            self.documents += 1
            if not text.strip():
                self.empty_documents += 1
                continue
            held_out = is_held_out(text, held_out_below)
            self.held_out_documents += held_out
            yield TokenisedDocument(number, model.tokenize(text), held_out)
