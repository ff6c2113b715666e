"""What one server has open: a run, its index and picks, and the language model once it is read."""

import secrets
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ...sae.common.errors import InputError
from ...sae.common.text import error_sentence
from ...steering.features.index import FeatureIndex
from ...steering.features.pick_store import PickStore
from ...steering.features.run_folder import run_folder
from ...steering.interventions.named import named_paths
from .config import ServeConfig
from .newest_run import newest_run
from .saved_interventions import SavedInterventions

if TYPE_CHECKING:
    from ...steering.loading import LoadedRun
    from ...steering.serving import Engine


class ModelUnavailable(InputError):
    """The language model could not be read, so nothing that needs it can be answered."""


class Session:
    """A run opened for reading, steering and picking.

    Attributes:
        config: the settings.  run: the folder of the run.  index: its feature index.
        saved: the interventions that requests can name.
        token: what a browser or program must know to be answered.
    """

    def __init__(self, config: ServeConfig, say: Callable[[str], None]) -> None:
        """Open the run; its language model is not read yet.

        Args:
            config: the settings.
            say: sentences for a person.

        Raises:
            InputError: there is no run, it has no whole feature index, or an intervention that is
                to be used by name cannot be read.
        """
        self.config = config
        self.run: Path = newest_run() if config.run is None else run_folder(config.run)
        self.index = FeatureIndex.of_run(self.run)
        self.index.require_files()
        self.saved = SavedInterventions(named_paths(config.interventions, "interventions"))
        self.token = secrets.token_urlsafe(32)
        self._say = say
        self._loaded: Future[LoadedRun] = Future()
        self._loading = threading.Lock()
        self._in_use = threading.Lock()
        self._engine: Engine | None = None
        self._making_engine = threading.Lock()

    def start_loading(self) -> None:
        """Read the language model in the background, unless that has begun."""
        if self._loading.acquire(blocking=False):
            threading.Thread(target=self._load, name="load", daemon=True).start()
            threading.Thread(target=self._check_index, name="index", daemon=True).start()

    @property
    def loaded(self) -> "LoadedRun":
        """The language model, its site and the autoencoder; waits until they are read.

        Raises:
            ModelUnavailable: they cannot be read.
        """
        self.start_loading()
        error = self._loaded.exception()
        if error is not None:
            sentence = error_sentence(f"the language model cannot be read: {error}")
            raise ModelUnavailable(sentence) from error
        return self._loaded.result()

    @contextmanager
    def using_model(self) -> "Generator[LoadedRun]":
        """The same, for one at a time: what hooks the language model must hold this while it does.

        Raises:
            ModelUnavailable: they cannot be read.
        """
        loaded = self.loaded
        with self._in_use, self.engine.exclusive():
            yield loaded

    @property
    def engine(self) -> "Engine":
        """What generates, for all pages and clients together; waits until the model is read.

        Raises:
            ModelUnavailable: the model cannot be read.
        """
        from ...steering.serving import Engine

        model, site, sae = self.loaded
        with self._making_engine:
            if self._engine is None:
                slots, queue = self.config.slots, self.config.queue
                self._engine = Engine(model, sae, site=site, slots=slots, queue=queue)
                self._engine.start()
        return self._engine

    @property
    def site(self) -> str:
        """Where the autoencoder reads and steers unless a request says otherwise."""
        return self.config.site or str(self.index.manifest["site"])

    @property
    def running_engine(self) -> "Engine | None":
        """The engine if it is there already."""
        return self._engine

    def close(self) -> None:
        """End what is generated."""
        if self._engine is not None:
            self._engine.close()

    @property
    def model_status(self) -> str:
        """`waiting`, `loading`, `ready`, or why the language model cannot be read."""
        if self._loaded.done():
            error = self._loaded.exception()
            return "ready" if error is None else str(error)
        return "loading" if self._loading.locked() else "waiting"

    @cached_property
    def picks(self) -> PickStore:
        """The picks of the run, for reading and changing."""
        return PickStore(self.run, sae=self.index.manifest["sae"], n_latents=self.index.n_latents)

    @property
    def model_name(self) -> str:
        """The language model's name: the one given, else as the index has it."""
        return self.config.model or str(self.index.manifest["model"])

    def _check_index(self) -> None:
        """Read all files of the index once, which compares their checksums, before a page needs
        them."""
        with suppress(InputError):  # the page says it
            self.index.feature(0)

    def _load(self) -> None:
        from ...steering.loading import load_run

        config = self.config
        try:
            loaded = load_run(
                str(self.run),
                model=config.model,
                site=config.site,
                model_dtype=config.model_dtype,
                allow_other_weights=config.allow_other_weights,
                device=config.device,
                say=self._say,
            )
        except BaseException as error:  # whoever needs the model is told; the pages go on
            self._loaded.set_exception(error)
            self._say(error_sentence(f"the language model cannot be read: {error}"))
        else:
            allowed = config.allow_other_weights
            for sentence in self.saved.check(loaded, allow_other_weights=allowed):
                self._say(error_sentence(sentence))
            self._loaded.set_result(loaded)
            _ = self.engine  # finds out what the model can before somebody waits for it
