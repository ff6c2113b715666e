"""A run to serve, and the command `serve` in a process of its own, for what measures it."""

import json
import select
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from sparsteer.sae import LanguageModel, Origin, SparseAutoencoder
from sparsteer.sae.config import TopKConfig
from sparsteer.steering.features import BuildConfig, build_index
from sparsteer.training.data.cache.config import CacheConfig
from sparsteer.training.data.cache.writer import cache_activations

_SECONDS_TO_START = 120


def make_run(folder: Path, *, model: str, site: str, n_latents: int, tokens: int) -> Path:
    """A run whose autoencoder is random and whose index is really built, on the text `news`.

    Args:
        folder: for the cache and the run, which are made anew.
        model, site: where the activations are read.
        n_latents: of the autoencoder; 32 are active on each token.
        tokens: about how many are read.
    """
    loaded = LanguageModel.load(model, progress=print)
    cache = CacheConfig(
        model=model,
        dataset="news",
        out=str(folder / "cache"),
        site=(site,),
        tokens=tokens,
        context_length=128,
    )
    cache_activations(cache, model=loaded)
    origin = Origin(model=model, site=site, weights_hash=loaded.weights_hash)
    sae = SparseAutoencoder(TopKConfig(loaded.d_model, n_latents, 32), seed=0, origin=origin)
    run = folder / "run"
    sae.save(run / "sae")
    build_index(BuildConfig(run=str(run), cache=str(folder / "cache")), model=loaded)
    return run


@dataclass(frozen=True)
class Served:
    """A server that answers."""

    url: str
    token: str
    seconds_to_start: float
    process: psutil.Process

    @property
    def headers(self) -> dict[str, str]:
        """Those of a request that is answered."""
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def memory(self) -> int:
        """Bytes of memory that the process has of the machine."""
        return self.process.memory_info().rss


@contextmanager
def serving(run: Path, *words: str) -> Generator[Served]:
    """The command on a run, until the end of the context."""
    command = [sys.executable, "-m", "sparsteer.cli", "serve", str(run), "--port", "0", "--json"]
    began = time.perf_counter()
    with subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not select.select([process.stdout], [], [], _SECONDS_TO_START)[0]:
                raise SystemExit(f"the server printed nothing in {_SECONDS_TO_START} s")
            line = process.stdout.readline()
            if not line:
                raise SystemExit("the server could not start")
            values = json.loads(line)
            seconds = time.perf_counter() - began
            yield Served(values["url"], values["token"], seconds, psutil.Process(process.pid))
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def memory_of_model(run: Path) -> int:
    """Bytes that a process has that has loaded the run's model and autoencoder and nothing else."""
    code = (
        "import sys, psutil, torch; from sparsteer.steering.loading import load_run\n"
        "model = load_run(sys.argv[1]).model\n"
        "model.logits(torch.tensor([model.tokenize('a text')]))\n"
        "print(psutil.Process().memory_info().rss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(done.stdout)
