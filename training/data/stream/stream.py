"""Activations straight from the language model to training, for corpora too large to store.

The documents of an epoch, in an order that the seed decides, are taken in chunks of `chunk_rows`
tokens; a chunk's contexts are packed from these alone, and its rows shuffled. While the batches of
one chunk are used, the model reads the next, one forward pass for as many rows, and a thread
tokenizes the one behind. So a chunk depends on the seed and the text before it alone: a run that
goes on needs no forward pass for what lies behind, and no tokenizing either, since its folder says
where in the text each chunk began.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ....sae.common.devices import resolve_device
from ....sae.common.errors import InputError
from ....sae.common.wording import counted
from ....sae.language_model.model import LanguageModel
from ....sae.language_model.names import lasting_name
from ....sae.language_model.sites import Site
from ...runtime.read_ahead import one_ahead
from ...runtime.threads import use_threads
from ...runtime.transfers import prefetch_to_device
from ..cache.model_dtype import with_stored_dtype, with_stream_dtypes
from ..cache.shards import EncodedRows
from ..content_tokens import ChosenContext
from ..context_length import context_length_of
from ..contexts import require_text
from ..corpus import Corpus, open_corpus
from ..documents import SKIP, BadRow
from ..extraction import ContextReader, joined
from ..settings import stream_settings
from ..shuffling import cut_in_batches
from ..windows import HostWindow, Window
from .chunk_index import CHUNK_INDEX, ChunkStart
from .chunks import ChunkSource, StreamChunk
from .config import StreamConfig

_SKIP_REMEDY = (
    f"{SKIP}, with which a run that has begun goes on; once the text is mended, give another --out"
)
"""Of a row without text: what was read of the text is not kept, so a changed one is refused."""


def open_stream(
    config: StreamConfig,
    *,
    site: str | None,
    rows: int,
    held_out_rows: int,
    device: str,
    folder: Path,
    begun: Mapping[str, Any],
    model: LanguageModel | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> "ActivationStream":
    """Open corpus and language model of a stream.

    Args:
        config: what to read; it names a model and a dataset.
        site: where to read; None means the residual after the middle layer.
        rows: how many will be asked for in all.
        held_out_rows: most rows kept for evaluation.
        device: of the language model.
        folder: the run's, which gets the file of chunk starts.
        begun: the settings of the run, if it has begun: a hub data set is read at its commit, and
            the model runs with as many threads; of a new run empty, and as many as torch has.
        model: `config.model` if it is loaded already.
        say: sentences for a person.

    Raises:
        InputError: the corpus, model or site cannot be read, or all text is on one side of the
            division into training and held-out documents.
    """
    assert config.model is not None and config.dataset is not None  # TrainConfig has seen to it
    if lasting_name(begun.get("stream", {}).get("dataset") or "") != lasting_name(config.dataset):
        begun = {}  # which the run folder will refuse
    corpus = open_corpus(
        config.dataset,
        text_field=config.text_field,
        split=config.split,
        subset=config.subset,
        skip_bad_rows=config.skip_bad_rows,
        chat=config.chat,
        skip_remedy=_SKIP_REMEDY,
        revision=begun.get("corpus_revision"),
        progress=say,
    )
    if begun.get("corpus_fingerprint", corpus.fingerprint) != corpus.fingerprint:
        raise InputError(
            f"the content of {config.dataset} has changed since {folder} was begun; give another "
            "--out, or restore the text as it was; --skip-bad-rows passes over rows that cannot be "
            "read"
        )
    corpus = dataclasses.replace(corpus, read_part=_telling(corpus.read_part, say))
    require_text(corpus)
    where = resolve_device(device)
    config = with_stream_dtypes(config, begun.get("stream", {}), where)
    assert config.model is not None and config.model_dtype is not None
    model = model or LanguageModel.load(
        config.model, device=str(where), dtype=config.model_dtype, progress=say
    )
    config = dataclasses.replace(config, context_length=context_length_of(config, model))
    config = with_stored_dtype(config, model)
    return ActivationStream(
        config,
        corpus,
        model,
        model.site(site),
        rows=rows,
        held_out_rows=held_out_rows,
        threads=begun.get("model_threads") or torch.get_num_threads(),
        chunk_index=folder / CHUNK_INDEX,
        say=say,
    )


def _telling(
    read_part: Callable[[int], Iterator[str]], say: Callable[[str], None]
) -> Callable[[int], Iterator[str]]:
    """The same texts; the first row that is passed over is told."""
    told = False

    def read(part: int) -> Iterator[str]:
        nonlocal told
        for text in read_part(part):
            if isinstance(text, BadRow) and not told:
                told = True
                say(f"rows without a text that can be read are passed over, such as {text.problem}")
            yield text

    return read


class ActivationStream:
    """The activations of a site, read as training asks for them; see `ActivationSource` and the
    module.

    Batches may go over chunks and epochs. Two chunks are in memory at a time, and the held-out
    rows.

    Args:
        config, rows, held_out_rows, say: as for `open_stream`.
        corpus, model, site: what is read, and where.
        threads: torch's while the model runs, which the last bits of its activations depend on.
        chunk_index: file of what is known about the chunks; without it they are found again.
    """

    def __init__(
        self,
        config: StreamConfig,
        corpus: Corpus,
        model: LanguageModel,
        site: Site,
        *,
        rows: int,
        held_out_rows: int,
        threads: int,
        chunk_index: Path,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._config = config
        self._corpus = corpus
        self._model = model
        self._site = site
        self._rows = rows
        self._held_out_rows = held_out_rows
        self._threads = threads
        self._chunk_index = chunk_index
        self._say = say
        assert config.dtype is not None  # `open_stream` has seen to it
        self._dtype = config.dtype
        self._source = ChunkSource(config, corpus, model, say)
        self._reader = ContextReader(
            model,
            [site],
            context_length=context_length_of(config, model),
            batch_size=config.forward_contexts,
            dtype=config.dtype,
        )
        self._begun: _Reading | None = None
        self._says_end = True

    @property
    def d_model(self) -> int:
        """D, width of the activations."""
        return self._model.d_model

    @property
    def dtype(self) -> str:
        """In which rows were stored before they were widened to float32."""
        return self._dtype

    @property
    def model(self) -> str:
        """The language model: its name, but for a local one its absolute path."""
        return self._model.source

    @property
    def weights_hash(self) -> str:
        """Hash of its weights."""
        return self._model.weights_hash

    @property
    def model_dtype(self) -> str:
        """The dtype in which it runs."""
        return self._model.dtype_name

    @property
    def dataset(self) -> str:
        """The corpus that is read."""
        return self._corpus.dataset

    @property
    def context_length(self) -> int:
        """Tokens in one context, BOS included."""
        return self._reader.context_length

    @property
    def prepends_bos(self) -> bool:
        """Whether contexts begin with BOS."""
        return self._model.bos_id is not None

    @property
    def identity(self) -> dict[str, Any]:
        """What decides every row, as plain values."""
        return {
            "stream": stream_settings(self._config),
            "corpus_fingerprint": self._corpus.fingerprint,
            "corpus_revision": self._corpus.revision,
            "weights_hash": self.weights_hash,
            "tokenizer_hash": self._model.tokenizer_hash,
            "model_threads": self._threads,
        }

    def site_name(self, site: str | None = None) -> str:
        """The site that is read; InputError if another is named."""
        if site not in (None, self._site.name):
            raise InputError(
                f"a stream is of one site, here {self._site.name}, and not of {site}, too; cache "
                "several sites to train on them together"
            )
        return self._site.name

    def sample(
        self, n_rows: int, *, site: str | None = None, seed: int = 0
    ) -> Float[Tensor, "N D"]:
        """The first rows of the first chunk in float32, shuffled; as many as it has at most."""
        self.site_name(site)
        reading = self._begin(seed, 0)
        return reading.rows().rows(reading.chunk.order()[:n_rows]).restored()

    def batches(
        self,
        batch_size: int,
        *,
        site: str | None = None,
        seed: int = 0,
        start: int = 0,
        part: slice | None = None,
        device: torch.device | None = None,
    ) -> Generator[Float[Tensor, "B D"], None, None]:
        """Training rows in float32, shuffled, from batch `start` on; batch i depends on `seed` and
        i alone. They end with the rows that the stream was opened for.

        The chunk of the first is read at once, so that this call can take long. With a CUDA
        `device` a thread reads, cuts and sends them, so that the model runs there.

        Raises:
            InputError: now or later, the corpus or an activation turns out to be unreadable.
        """
        self.site_name(site)
        if start * batch_size < self._rows:
            self._begin(seed, start * batch_size)
        batches = cut_in_batches(self._shuffled(seed, start * batch_size), batch_size, part)
        return batches if device is None else prefetch_to_device(batches, device)

    def held_out(
        self, *, site: str | None = None, limit: int | None = None
    ) -> Float[Tensor, "N D"]:
        """The first rows of held-out documents in float32, at most `limit`; read once and kept.

        Raises InputError if there are none.
        """
        self.site_name(site)
        return self._held_out[:limit]

    def require_batch(self, batch_size: int) -> None:
        """Any size will do: where the corpus ends, the stream begins it again."""

    def require_held_out(self) -> None:
        """Raise InputError if the corpus has no held-out documents."""
        if not self._source.held_out(1):
            raise InputError(
                f"{self._corpus.dataset} has no held-out documents; give more text, or a higher "
                "--held-out-fraction"
            )

    @cached_property
    def _held_out(self) -> Float[Tensor, "N D"]:
        self.require_held_out()
        chunk = StreamChunk(0, ChunkStart(0, 0, 0), self._source.held_out(self._held_out_rows))
        self._say(f"reading {counted(chunk.n_rows, 'held-out row')} of {self._corpus.dataset}")
        rows = _Reading(chunk, self._read, self._config.forward_contexts).rows()
        return rows.restored()[: self._held_out_rows]

    def _begin(self, seed: int, row: int) -> "_Reading":
        """The chunk that holds the row, read unless it is there."""
        reading = self._reading(next(self._chunks(seed, row)))
        if reading.n_left:
            self._say(
                f"reading {counted(reading.chunk.n_rows, 'row')} of {self._corpus.dataset} to "
                "begin with"
            )
            reading.rows()
        self._begun = reading
        return reading

    def _shuffled(self, seed: int, first_row: int) -> Generator[Window]:
        """Windows for `cut_in_batches`; between them the model reads the next chunk."""
        chunks = self._chunks(seed, first_row)
        with closing(one_ahead(lambda _: next(chunks, None), count())) as planned:
            first = next(planned)
            coming = None if first is None else self._reading(first)
            while coming is not None:
                self._tell_end(coming.chunk)
                rows, chunk = coming.rows(), coming.chunk
                order = chunk.order()[max(first_row - chunk.start.row, 0) :]
                following = next(planned)
                coming = None if following is None else self._reading(following)
                for piece in np.array_split(order, coming.n_left if coming else 1):
                    yield HostWindow(rows, piece)
                    if coming is not None:
                        coming.advance()
                # Without this a third chunk would be in memory while the next one is joined.
                del rows

    def _tell_end(self, chunk: StreamChunk) -> None:
        if chunk.start.epoch and self._says_end:
            self._says_end = False
            order = "another order" if self._config.shuffle_buffer > 1 else "the same order"
            self._say(
                f"{self._corpus.dataset} has ended, {chunk.start.row:,} training rows in all "
                f"so far; it begins again in {order}"
            )

    def _chunks(self, seed: int, row: int) -> Iterator[StreamChunk]:
        return self._source.from_row(row, rows=self._rows, seed=seed, path=self._chunk_index)

    def _reading(self, chunk: StreamChunk) -> "_Reading":
        """Reading of the chunk from the start, or the one that was begun."""
        begun, self._begun = self._begun, None
        if begun is not None and begun.chunk.is_same(chunk):
            return begun
        return _Reading(chunk, self._read, self._config.forward_contexts)

    def _read(self, contexts: list[ChosenContext]) -> EncodedRows:
        with use_threads(self._threads):
            content, _ = self._reader.read(contexts, lambda rows: None)
        return content.activations[self._site.name]


class _Reading:
    """A chunk whose rows are read by one forward pass after the other.

    Args:
        chunk: what to read.
        read: gives the rows of contexts.
        at_once: contexts in one pass.
    """

    def __init__(
        self, chunk: StreamChunk, read: Callable[[list[ChosenContext]], EncodedRows], at_once: int
    ) -> None:
        self.chunk = chunk
        self._read = read
        starts = range(0, len(chunk.contexts), at_once)
        self._left = deque(chunk.contexts[at : at + at_once] for at in starts)
        self._parts: list[EncodedRows] = []

    @property
    def n_left(self) -> int:
        """Passes that are left."""
        return len(self._left)

    def advance(self) -> None:
        """One pass, if there is one left."""
        if self._left:
            self._parts.append(self._read(self._left.popleft()))

    def rows(self) -> EncodedRows:
        """All rows, those that are missing being read."""
        while self._left:
            self.advance()
        self._parts = [joined(self._parts)]
        return self._parts[0]
