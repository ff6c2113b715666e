"""Configuration of an activation cache, checked when it is made; imports no torch."""

from dataclasses import dataclass
from typing import Literal, cast

from ..sae.errors import InputError

CacheDtype = Literal["float16", "bfloat16", "float32", "int8"]


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """What to read, with which model, and how the activation cache is laid out on disk."""

    model: str
    """Language model: `smollm2-135m`, a hub name, a folder, or a .gguf file."""

    dataset: str
    """Corpus: a .jsonl, .json, .parquet or .txt file (the text ones also as .gz, .bz2 or .xz), a
    folder of them, a quoted pattern such as `'part-*.jsonl'`, a fetched name (news, commons,
    healthtweets, instructions, rtp-prompts without its reporting side), or a hub name, with
    `@REVISION` if need be."""

    out: str
    """Folder of the cache; the same command again goes on where it stopped."""

    site: tuple[str, ...] = ()
    """Sites to read, all in one forward pass; none means the residual after the middle layer."""

    tokens: int = 1_000_000
    """Activation rows to write, one for each token that counts (no BOS, separator or padding)."""

    context_length: int = 128
    """Tokens in one context, BOS included."""

    batch_size: int = 16
    """Contexts in one forward pass."""

    dtype: CacheDtype = "float16"
    """How activations are stored; int8 has a float32 scale for each row."""

    shard_rows: int = 32_768
    """Rows in one shard file, about (whole batches of contexts); a kill loses at most one shard."""

    held_out_fraction: float = 0.05
    """Share of the rows kept for evaluation, of documents that training never sees; which ones is
    decided by a hash of their text."""

    text_field: str | None = None
    """Field that holds the text; `A+B` joins two by a blank line. Default: `text`, or the right
    one of a fetched name."""

    split: str = "train"
    """Split of a hub data set."""

    subset: str | None = None
    """Subset (configuration) of a hub data set that has several."""

    shuffle_buffer: int = 10_000
    """Documents held in memory to draw the next one from; 1 keeps the order of the corpus."""

    seed: int = 0
    """Seed of the order of documents."""

    device: str = "auto"
    """Device of the language model: auto, cpu, cuda, cuda:1, ...; auto takes a GPU if there is
    one."""

    def __post_init__(self) -> None:
        for name in ("model", "dataset", "out", "split", "device"):
            if not getattr(self, name).strip():
                raise InputError(f"{name} is empty; give a value")
        self._check_site()
        for name, least in (
            ("tokens", 1),
            ("context_length", 3),
            ("batch_size", 1),
            ("shard_rows", 1),
            ("shuffle_buffer", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int):
                raise InputError(f"{name} is {value!r}; it must be a whole number")
            if value < least:
                raise InputError(f"{name} is {value}; it must be at least {least}")
        if self.dtype not in ("float16", "bfloat16", "float32", "int8"):
            raise InputError(f"dtype is {self.dtype!r}; choose float16, bfloat16, float32 or int8")
        if not 0 <= self.held_out_fraction < 1:
            raise InputError(
                f"held_out_fraction is {self.held_out_fraction}; it must be at least 0 and below 1"
            )
        if self.text_field is not None and not all(self.text_field.split("+")):
            raise InputError(
                f"text_field is {self.text_field!r}; give a field name, or several as A+B"
            )

    @property
    def held_out_rows(self) -> int:
        """Rows wanted for evaluation: at least one unless the fraction is 0, and never all."""
        least = 1 if self.held_out_fraction else 0
        return min(max(least, round(self.tokens * self.held_out_fraction)), self.tokens - 1)

    def _check_site(self) -> None:
        if isinstance(cast(object, self.site), str):
            raise InputError(f"site is the text {self.site!r}; give a tuple: ({self.site!r},)")
        if not all(self.site):
            raise InputError("site has an empty name; leave it out for the middle layer")
        if len(set(self.site)) < len(self.site):
            raise InputError(f"site {', '.join(self.site)} names one twice; give each once")
