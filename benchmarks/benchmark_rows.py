"""The rows that benchmarks train on: activations of the default language model, or made-up ones.

Activations come from the demo's cache where there is one; otherwise they are cached once, with the
demo's settings, in the user's cache folder. Rows are scaled as training scales them.
"""

import sys
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from bench_training_step import planted_rows
from torch import Tensor

from sparsteer.app.demo.config import DemoConfig
from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.fetching.fetch import cache_folder
from sparsteer.training import ActivationCache
from sparsteer.training.data.cache.writer import cache_activations
from sparsteer.training.initialize import initialize_from_rows

Kind = Literal["real", "made-up"]
KINDS: tuple[Kind, ...] = ("real", "made-up")
HELD_OUT = 4096
DEMO = Path(__file__).parents[1] / "demo" / "cache"
_SAMPLE = 16_384  # rows that scale and center come from, as in `sparsteer train`


class BenchmarkRows(NamedTuple):
    """Rows of one kind."""

    scaled_ND: Tensor
    """Float32 rows about 0 with a mean squared norm of their width; the last HELD_OUT are never
    trained on."""
    source: str
    """What they are, in words."""


def benchmark_rows(
    kind: Kind, n_rows: int, *, width: int = 768, cache: Path | None = None
) -> BenchmarkRows:
    """So many rows to train on, or as many as there are, and HELD_OUT others.

    Args:
        width: of made-up rows; real ones have that of the language model.
        cache: an activation cache, in place of the default language model's.
    """
    if kind == "made-up":
        torch.default_generator.manual_seed(0)
        return _scaled(planted_rows(n_rows + HELD_OUT, width), f"made-up sparse rows, D={width}")
    found = real_rows(cache)
    held_out = found.held_out(limit=HELD_OUT)
    rows_ND = torch.cat([found.sample(n_rows), held_out[torch.arange(HELD_OUT) % len(held_out)]])
    return _scaled(
        rows_ND, f"{found.site_name()} of {Path(found.model).name} on {Path(found.dataset).name}"
    )


def real_rows(cache: Path | None = None) -> ActivationCache:
    """A complete cache: the given one, the demo's, or one in the user's cache folder, which is
    made, or gone on with, if need be; that takes minutes."""
    if cache is not None:
        return ActivationCache(cache)
    config = DemoConfig(out=str(benchmark_folder())).cache_config()
    try:
        found = ActivationCache(DEMO)
        if found.model == config.model:
            return found
    except InputError:
        pass  # there is none, or it is not complete
    say = _Teller(f"caching {config.tokens:,} rows of {config.model} in {config.out}")
    cache_activations(config, progress=say.progress)
    return ActivationCache(config.out)


def benchmark_folder() -> Path:
    """Where benchmarks keep what takes minutes to make."""
    return cache_folder() / "benchmarks"


class _Teller:
    """Says once that caching takes a while, if anything is left to cache."""

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence

    def progress(self, done: int, wanted: int, rate: float) -> None:
        if rate and self._sentence:
            print(self._sentence, file=sys.stderr)
            self._sentence = ""


def _scaled(rows_ND: Tensor, source: str) -> BenchmarkRows:
    """Rows less their center and scaled, both estimated from the first of them."""
    sae = SparseAutoencoder(TopKConfig(rows_ND.shape[1], 1, 1))
    initialize_from_rows(sae, rows_ND[:_SAMPLE])
    with torch.no_grad():
        return BenchmarkRows(sae.scaled(rows_ND), source)
