"""Configuration of the check of a site, checked when it is made; imports no torch."""

import dataclasses
from dataclasses import dataclass

from ....sae.common.errors import InputError
from ....sae.common.paths import FilePath
from ....sae.common.validation import (
    require_given,
    require_integer,
    require_positive,
    require_positive_integer,
)
from ....sae.config import ModelDtype
from ....sae.device_map import require_device_map
from ...data.corpus_config import CorpusConfig

_OF_ANY_SOURCE = ("cache", "site", "tokens", "massive_ratio", "outlier_norm", "top")
"""Settings that go with a cache, too."""


@dataclass(frozen=True, kw_only=True)
class SiteCheckConfig:
    """Which site of which model on which text, or which cache, and what counts as large."""

    model: str | None = None
    """Language model to read, named as for `sparsteer cache`; needs --dataset."""

    dataset: str | None = None
    """Corpus to read, named as for `sparsteer cache`."""

    cache: FilePath | None = None
    """Folder of an activation cache to look at in place of --model and --dataset. What it left out
    is then not known, and tokens are known by their ids alone."""

    site: str | None = None
    """Site to look at; by default the residual after the middle layer, or the cache's only one."""

    tokens: int = 16_384
    """Rows to look at, one for each token that training would read; the default is what it
    estimates the input scale from. The positions between them that it would leave out are looked at
    as well."""

    massive_ratio: float = 100.0
    """A value is massive from so many times the median magnitude of all values on. Of random normal
    values a million stay below 8; 1000 is usual for models of billions of parameters."""

    outlier_norm: float = 5.0
    """A row is an outlier above so many times the median norm, as in `features build`."""

    top: int = 10
    """Most coordinates, positions and tokens to list, each; coordinates with a tenth of the mean
    squared norm are listed in any case."""

    context_length: int | None = None
    """Tokens in one context, BOS included. Default: 128, or as many as the language model reads if
    those are fewer."""

    batch_size: int = 16
    """Contexts in one forward pass."""

    model_dtype: ModelDtype = "float32"
    """Dtype in which the language model runs: float32, bfloat16, float16, float64, or auto for what
    its weights are stored as."""

    text_field: str | None = None
    """Field that holds the text; `A+B` joins two by a blank line, `A.B` is a field in an object.
    Default: `text`, or the right ones of a fetched name or of a layout such as chat messages or
    instructions."""

    skip_bad_rows: bool = False
    """Pass over rows that cannot be read or hold no text, and say how many; by default the first is
    named and ends the command."""

    split: str = "train"
    """Split of a hub data set or of a folder; a word such as test or validation in a file's path
    makes it one of another split, which is not read."""

    subset: str | None = None
    """Subset (configuration) of a hub data set that has several."""

    shuffle_buffer: int = 10_000
    """Documents held in memory to draw the next one from; 1 keeps the order of the corpus."""

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
        self.corpus_config()  # which looks at the settings that a cache has, too
        require_device_map(self.device_map, self.device)
        for name in ("model", "dataset", "cache", "site"):
            if getattr(self, name) is not None:
                require_given(name, getattr(self, name))
        require_given("device", self.device)
        require_integer("tokens", self.tokens, least=2)
        for name in ("top", "batch_size"):
            require_positive_integer(name, getattr(self, name))
        require_integer("seed", self.seed, least=0)
        require_positive("massive_ratio", self.massive_ratio)
        require_positive("outlier_norm", self.outlier_norm)
        self._require_one_source()

    def corpus_config(self) -> CorpusConfig:
        """What it has in common with a cache."""
        return CorpusConfig(
            context_length=self.context_length,
            model_dtype=self.model_dtype,
            text_field=self.text_field,
            skip_bad_rows=self.skip_bad_rows,
            split=self.split,
            subset=self.subset,
            shuffle_buffer=self.shuffle_buffer,
        )

    def _require_one_source(self) -> None:
        """Raise an InputError unless there is a cache, or a model and a corpus."""
        if self.cache is None:
            for name in ("model", "dataset"):
                if getattr(self, name) is None:
                    raise InputError(
                        f"{name} is missing; give --model and --dataset to read, or the folder of "
                        "an activation cache with --cache",
                        field=name,
                    )
            return
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in _OF_ANY_SOURCE and value != field.default:
                raise InputError(
                    f"{field.name} is {value!r}, but the activations of {self.cache} have been "
                    "read already; leave it out, or leave --cache out to read a model",
                    field=field.name,
                )
