"""The engine: requests that come and go, generated together in one forward pass a token."""

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.sites import Site
from ..generation import in_room, stop_ids
from ..interventions.intervention import Intervention
from ..interventions.prepared import PreparedIntervention
from ..interventions.row_steering import RowSteering, SteeredRow
from ..text_stream import TextStream
from .batch import TextBatch
from .request import EngineClosed, GenerationRequest, QueueFull
from .stream import TokenStream
from .texts import RunningText
from .turns import Turns

_RATE_SECONDS = 10.0
_FEW = 64
"""Columns of padding that are read rather than prompts one by one."""
_MOST_READ = 4096
"""Tokens, padding included, of prompts that are read in one pass."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineState:
    """How busy an engine is."""

    slots: int
    slots_in_use: int
    waiting: int
    """Requests that wait for a slot."""
    tokens_generated: int
    """Since it began."""
    prompt_tokens_read: int
    """Since it began."""
    tokens_per_second: float
    """Over the last ten seconds."""


class Engine:
    """Continues prompts, each with an intervention and a sampling of its own, in one batch.

    A request joins as soon as a slot is free, between two tokens of the others, and each text is
    the one that the request gets alone, but for rounding. A request that fails ends by itself;
    where a pass of all fails, the one that came last ends, and the others' texts are read anew.
    Where the model cannot hold texts of unlike lengths in one batch (`LanguageModel.rows_join`),
    texts take turns, each in a batch of its own.
    """

    def __init__(
        self,
        model: LanguageModel,
        sae: SparseAutoencoder,
        *,
        site: Site | None = None,
        slots: int = 16,
        queue: int = 64,
    ) -> None:
        """Take what is run; nothing is until the first request.

        Args:
            model: the language model. It runs without TransformerLens' bridge where that gives the
                same (`LanguageModel.fastest`).
            sae: the autoencoder of the features that are steered and watched.
            site: where the autoencoder reads; by default where it was trained, else the model's
                middle.
            slots: texts generated at once.
            queue: texts that may wait for a slot.
        """
        name = site.name if site is not None else sae.origin.site if sae.origin else None
        self._site_name = model.site(name).name
        self.model = model.fastest([self._site_name])
        self.sae = sae
        self.site = self.model.site(self._site_name)
        self.slots, self.queue = slots, queue
        self._changed = threading.Condition()
        self._turns = Turns()
        self._waiting: deque[tuple[TokenStream, list[RunningText]]] = deque()
        self._batches: list[TextBatch] = []
        self._in_use = 0
        self._closed = False
        self._together = False
        self._thread: threading.Thread | None = None
        self._stop_ids = frozenset(stop_ids(self.model))
        self._tokens_generated = self._prompt_tokens_read = 0
        self._rates: deque[tuple[float, int]] = deque()

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Ask for a prompt to be continued.

        Returns:
            The stream of its events.

        Raises:
            InputError: the prompt or the sampling does not fit into the model's context, there is
                no such latent or site, or there are fewer slots than texts asked for.
            QueueFull: too many requests are waiting.
            EngineClosed: the engine was closed.
        """
        prompt = self.model.require_embedded(list(request.prompt), "a prompt")
        sampling = in_room(request.sampling, self.model, [prompt])
        if request.n > self.slots:
            raise InputError(
                f"n is {request.n}; at most {self.slots} texts can be generated", field="n"
            )
        for latent in request.watch:
            if latent >= self.sae.config.n_latents:
                raise InputError(
                    f"there is no feature {latent} to watch; the autoencoder's are 0 to "
                    f"{self.sae.config.n_latents - 1}"
                )
        prepared = None
        if request.intervention is not None:
            prepared = self._prepared(request.intervention)
        stream = TokenStream(request, on_cancel=self._notify)
        texts = [
            RunningText(
                stream=stream,
                choice=choice,
                prompt=prompt,
                sampling=dataclasses.replace(sampling, seed=sampling.seed + choice),
                steered=SteeredRow(prepared, request.watch),
                text=TextStream(self.model, prompt, sampling.stop),
                stop_ids=self._stop_ids,
            )
            for choice in range(request.n)
        ]
        with self._changed:
            if self._closed:
                raise EngineClosed()
            self._forget_cancelled()
            n_texts = self._in_use + sum(len(texts) for _, texts in self._waiting)
            if n_texts + request.n - self.slots > self.queue:
                raise QueueFull(len(self._waiting))
            self._waiting.append((stream, texts))
            self._changed.notify_all()
        self.start()
        return stream

    def start(self) -> None:
        """Begin to find out what the model can, which the first request would else wait for."""
        with self._changed:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
                self._thread.start()

    @contextmanager
    def exclusive(self) -> Generator[None]:
        """Within the context, the engine does not run the model: for those who write its sites in
        another thread, and for passes that are to be quick. They go first. Reading a site needs
        none of this."""
        with self._turns.of_others():
            yield

    @property
    def state(self) -> EngineState:
        """How busy the engine is."""
        with self._changed:
            since = time.monotonic() - _RATE_SECONDS
            recent = sum(n for when, n in self._rates if when > since)
            return EngineState(
                slots=self.slots,
                slots_in_use=self._in_use,
                waiting=len(self._waiting),
                tokens_generated=self._tokens_generated,
                prompt_tokens_read=self._prompt_tokens_read,
                tokens_per_second=recent / _RATE_SECONDS,
            )

    def close(self) -> None:
        """End all requests and the engine's thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _prepared(self, intervention: Intervention) -> PreparedIntervention:
        """Its vectors; requests that run with the same intervention share them."""
        with self._changed:
            running = [text for batch in self._batches for text in batch.texts]
        for text in running:
            prepared = text.steered.prepared
            if prepared is not None and prepared.intervention == intervention:
                return prepared
        return PreparedIntervention.of(intervention, self.model, self.sae)

    # The engine's thread

    def _run(self) -> None:
        ending: Exception = EngineClosed()
        try:
            self._serve()
        except Exception as error:  # Nobody must wait for an engine that has ended.
            ending = error
        with self._changed:
            self._closed = True
            left = [text.stream for batch in self._batches for text in batch.texts]
            left += [stream for stream, _ in self._waiting]
            self._waiting.clear()
            self._batches.clear()
        for stream in left:
            stream.fail(ending)

    def _serve(self) -> None:
        with self._turns.own():
            self._together = self.model.rows_join
        while True:
            with self._changed:
                while not (self._closed or self._batches or self._waiting):
                    self._changed.wait()
                if self._closed:
                    return
            for texts in self._groups():
                self._begin(texts)
            for batch in list(self._batches):
                self._step(batch)
            self._batches = [batch for batch in self._batches if batch.texts]
            self._count_slots()

    def _groups(self) -> list[list[RunningText]]:
        """The texts of those who wait, as far as there are slots: those whose prompts are read
        together, since little padding is between them."""
        admitted: list[RunningText] = []
        with self._changed:
            self._forget_cancelled()
            while self._waiting and self._in_use + len(self._waiting[0][1]) <= self.slots:
                _, texts = self._waiting.popleft()
                self._in_use += len(texts)
                admitted += texts
        admitted.sort(key=lambda text: len(text.prompt))
        groups: list[list[RunningText]] = []
        n_tokens = 0
        for text in admitted:
            n_tokens += len(text.prompt)
            width = len(groups[-1]) + 1 if groups else 0
            most = min(1.5 * n_tokens + _FEW, _MOST_READ)
            if groups and self._together and len(text.prompt) * width <= most:
                groups[-1].append(text)
            else:
                groups.append([text])
                n_tokens = len(text.prompt)
        return groups

    def _begin(self, texts: list[RunningText]) -> None:
        """Read prompts, choose their first tokens, and let them join the batch."""
        steering = RowSteering(
            self.model, [text.steered for text in texts], watched_site=self.site, sae=self.sae
        )
        try:
            with self._turns.own():
                batch = TextBatch(self.model, texts, steering)
            self._step(batch, may_fail=len(texts) > 1)
        except Exception as error:
            untouched = all(text.n_tokens == 0 and not text.ended for text in texts)
            if len(texts) > 1 and untouched:  # One of them may be at fault.
                for text in texts:
                    self._begin([text])
            else:
                _fail(texts, error)
            return
        self._prompt_tokens_read += sum(len(text.prompt) for text in texts)
        if not batch.texts:
            return
        if self._together and self._batches:
            try:
                with self._turns.own():
                    self._batches[0].join(batch)
            except Exception as error:  # Of memory, for example.
                _fail(batch.texts, error)
        else:
            self._batches.append(batch)

    def _forget_cancelled(self) -> None:
        """End those who wait and are not waited for."""
        for stream, texts in [each for each in self._waiting if each[0].cancelled]:
            self._waiting.remove((stream, texts))
            for text in texts:
                text.choose(-1, None, ())

    def _step(self, batch: TextBatch, *, may_fail: bool = False) -> None:
        try:
            with self._turns.own():
                n_chosen = batch.step()
        except Exception as error:
            if may_fail:
                raise
            # There may be too much to read for the memory: without the last the others go on.
            failed = batch.newest() if batch.is_reading else list(batch.texts)
            _fail(failed, error)
            batch.leave_out(failed)
            if batch.texts:
                self._step(batch)
            return
        with self._changed:
            self._tokens_generated += n_chosen
            now = time.monotonic()
            self._rates.append((now, n_chosen))
            while self._rates[0][0] < now - _RATE_SECONDS:
                self._rates.popleft()

    def _count_slots(self) -> None:
        with self._changed:
            self._in_use = sum(len(batch.texts) for batch in self._batches)


def _fail(texts: list[RunningText], error: Exception) -> None:
    for text in texts:
        text.fail(error)
