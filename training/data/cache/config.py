"""Configuration of an activation cache, checked when it is made; imports no torch."""

from dataclasses import dataclass

from ....sae.common.errors import InputError
from ....sae.common.mixtures import Mixture
from ....sae.common.paths import FilePath
from ....sae.common.validation import (
    require_given,
    require_integer,
    require_positive_integer,
    require_tuple,
)
from ....sae.device_map import require_device_map
from ..corpus_config import CorpusConfig


@dataclass(frozen=True, kw_only=True)
class CacheConfig(CorpusConfig):
    """What to read, with which model, and how the activation cache is laid out on disk."""

    model: str
    """Language model: `smollm2-135m`, a hub name, a folder, or a .gguf file."""

    dataset: Mixture
    """Corpus: a .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow or .txt file (the text ones
    also as .gz, .bz2, .xz or .zst), a folder of them, what `datasets` saved with save_to_disk, a
    quoted pattern such as `'part-*.jsonl'`, a fetched name (`sparsteer fetch --list`; rtp-prompts
    without its reporting side), or a hub name, with `@REVISION` if need be. Several, as in
    `encyclopedia:3 chitchat:1`, are mixed so that there is text of each as its weight says; without
    one a weight is 1."""

    out: FilePath
    """Folder of the cache; the same command again goes on where it stopped."""

    site: tuple[str, ...] = ()
    """Sites to read, all in one forward pass; none means the residual after the middle layer."""

    tokens: int = 1_000_000
    """Activation rows to write, one for each token that counts (no BOS, separator or padding)."""

    batch_size: int = 16
    """Contexts in one forward pass."""

    shard_rows: int = 32_768
    """Rows in one shard file, about (whole batches of contexts); a kill loses at most one shard."""

    seed: int = 0
    """Seed of the order of documents."""

    device: str = "auto"
    """Device of the language model: auto, cpu, cuda, cuda:1, ...; auto takes a GPU if there is
    one."""

    device_map: str | None = None
    """Spread a language model that is too large for one device, in place of --device: auto,
    balanced (over GPUs), or a JSON object of module names and devices (a GPU's number, cpu, disk).
    It then runs without TransformerLens' bridge, through the package accelerate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_device_map(self.device_map, self.device)
        for name in ("model", "dataset", "out", "device"):
            require_given(name, getattr(self, name))
        self._check_site()
        for name in ("tokens", "batch_size", "shard_rows"):
            require_positive_integer(name, getattr(self, name))
        require_integer("seed", self.seed, least=0)

    @property
    def held_out_rows(self) -> int:
        """Rows wanted for evaluation: at least one unless the fraction is 0, and never all."""
        least = 1 if self.held_out_fraction else 0
        return min(max(least, round(self.tokens * self.held_out_fraction)), self.tokens - 1)

    def _check_site(self) -> None:
        require_tuple("site", self.site)
        if not all(self.site):
            raise InputError(
                "site has an empty name; leave it out for the middle layer", field="site"
            )
        if len(set(self.site)) < len(self.site):
            raise InputError(
                f"site {', '.join(self.site)} names one twice; give each once", field="site"
            )
