"""How fast `sparsteer cache` is, beside the language model's own forward pass, and what the dtype
that the model runs in does to the activations."""

import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.sae.language_model.sites import read_sites
from sparsteer.training import ActivationCache, CacheConfig, cache_activations

BATCH = 16
DTYPES = ("float32", "bfloat16")
HEADER = [
    "model runs in",
    "forward pass",
    "`cache`",
    "of it, by clock",
    "of it, by processor time",
    "in the bridge",
    "memory: forward pass",
    "`cache`",
]


class Stopped(Exception):
    """Ends a forward pass behind the layer that is measured."""


class Measured:
    """One model in one dtype, and what its rounds took.

    Args:
        name: the language model.  dtype: in which it runs.  site: the one that is cached, a
            `resid_post`.
    """

    def __init__(self, name: str, dtype: str, site: str) -> None:
        self.model = LanguageModel.load(name, dtype=dtype)
        assert self.model.weights_hash  # read once for a model, apart from caching
        self.plain = self.model.without_bridge()
        self.site = site
        self.seconds: dict[str, list[Float[Tensor, 2]]] = {}
        self.peaks: dict[str, int] = {}

    def time(self, what: str, work: Callable[[], object], keep: bool) -> None:
        """Note clock and processor time of the work, and how far memory rises in it."""
        before = resident_bytes(reset_peak=True)
        started = clocks()
        work()
        if keep:
            self.seconds.setdefault(what, []).append(clocks() - started)
            self.peaks[what] = max(self.peaks.get(what, 0), peak_bytes() - before)

    def forward(self, tokens: Int[Tensor, "C L"]) -> None:
        """The transformers model alone, called as it is, as far as the site's layer."""
        original: Any = self.plain.network.model
        layer = original.model.layers[int(self.site.split(".")[1])]

        def stop(module: object, inputs: object, output: object) -> None:
            raise Stopped

        handle = layer.register_forward_hook(stop)
        try:
            for batch in torch.split(tokens, BATCH):
                try:
                    with torch.no_grad():
                        original(batch, use_cache=False)
                except Stopped:
                    continue
        finally:
            handle.remove()

    def in_the_bridge(self, tokens: Int[Tensor, "C L"]) -> None:
        """The site read in TransformerLens' bridge."""
        for batch in torch.split(tokens, BATCH):
            self.model.site(self.site).read(batch)

    def cache(self, folder: Path, n_tokens: int) -> Int[Tensor, "C L"]:
        """What `sparsteer cache` does; the contexts that it read."""
        config = CacheConfig(
            model=self.model.name,
            dataset="news",
            out=str(folder),
            tokens=n_tokens,
            site=(self.site,),
            batch_size=BATCH,
        )
        cache_activations(config, model=self.model)
        cache = ActivationCache(folder)
        shards = [cache.shard(entry) for entry in cache.manifest.shards]
        return torch.cat([shard.tensor("contexts").long() for shard in shards])

    def row(self, n_positions: int) -> list[str]:
        """The line of the table: tokens a second, the median of the rounds and their range."""

        def speed(what: str) -> str:
            rates = sorted(n_positions / float(both[0]) for both in self.seconds[what])
            return f"{statistics.median(rates):,.0f} ({rates[0]:,.0f} to {rates[-1]:,.0f})"

        def share(clock: int) -> str:
            rounds = zip(self.seconds["forward"], self.seconds["cache"], strict=True)
            shares = sorted(float(forward[clock] / cache[clock]) for forward, cache in rounds)
            return f"{statistics.median(shares):.1%} ({shares[0]:.1%} to {shares[-1]:.1%})"

        peaks = [f"{self.peaks[what] / 1e6:,.0f} MB" for what in ("forward", "cache")]
        speeds = [speed("forward"), speed("cache"), share(0), share(1), speed("bridge")]
        return [self.model.dtype_name, *speeds, *peaks]


def measure_caching(
    folder: Path, name: str, site: str, n_tokens: int, n_rounds: int
) -> tuple[list[list[str]], list[str]]:
    """The lines of the table and its notes; every round measures all, in another order."""
    measured = [Measured(name, dtype, site) for dtype in DTYPES]
    tokens = measured[0].cache(folder / "first", n_tokens)
    for number in range(n_rounds + 1):  # the first only warms up
        for each in measured if number % 2 else measured[::-1]:
            out = folder / f"{number}-{each.model.dtype_name}"
            works: dict[str, Callable[[], object]] = {
                "forward": lambda each=each: each.forward(tokens),
                "cache": lambda each=each, out=out: each.cache(out, n_tokens),
                "bridge": lambda each=each: each.in_the_bridge(tokens),
            }
            for what in list(works) if number % 4 < 2 else list(works)[::-1]:
                each.time(what, works[what], keep=number > 0)
    notes = [
        f"Tokens a second of {name} as far as {site}, batches of {BATCH} contexts of "
        f"{tokens.shape[1]}, {tokens.numel():,} tokens of news in each of {n_rounds} rounds that "
        "take turns: the median (and range). `cache` is all that the command does but for loading "
        "the model and hashing its weights: opening the corpus, tokenizing, storing. Memory is how "
        "far it rises above the loaded models.",
    ]
    return [each.row(tokens.numel()) for each in measured], notes


def measure_dtype(
    name: str, sites: tuple[str, ...], tokens: Int[Tensor, "C L"]
) -> tuple[list[str], list[list[str]]]:
    """For each site the fraction of the variance of the activations that bfloat16 changes."""
    models = [LanguageModel.load(name, dtype=dtype).without_bridge() for dtype in DTYPES]
    rows: list[list[str]] = []
    parts: dict[str, list[Float[Tensor, "2 N D"]]] = {site: [] for site in sites}
    for batch in torch.split(tokens, BATCH):
        kept = ~models[0].excluded_tokens(batch)
        found = [read_sites(model, [*map(model.site, sites)], batch) for model in models]
        for site in sites:
            parts[site].append(torch.stack([acts[site][kept].float() for acts in found]))
    for site in sites:
        exact, rounded = torch.cat(parts[site], dim=1).double()
        error = (rounded - exact).square().sum() / (exact - exact.mean(dim=0)).square().sum()
        rows.append([site, f"{float(error):.3%}"])
    return ["site", "variance that bfloat16 changes"], rows


def clocks() -> Float[Tensor, "2"]:
    """Seconds by the clock, and of processor time of all threads."""
    return torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)


def resident_bytes(*, reset_peak: bool) -> int:
    """Main memory of this process; `peak_bytes` is then counted from here on, on Linux."""
    if reset_peak:
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most main memory that this process has had since it was last reset."""
    return _status("VmHWM")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
