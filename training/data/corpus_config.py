"""How the text of a corpus becomes activation rows, checked when it is made; imports no torch."""

from dataclasses import dataclass
from typing import Literal

from ...sae.common.errors import InputError
from ...sae.config import ModelDtype, require_integer, require_model_dtype

CacheDtype = Literal["float16", "bfloat16", "float32", "int8"]

DEFAULT_CONTEXT_LENGTH = 128


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """What a cache and a stream of activations have in common."""

    context_length: int | None = None
    """Tokens in one context, BOS included. Default: 128, or as many as the language model reads if
    those are fewer."""

    dtype: CacheDtype = "float16"
    """How activations are stored; int8 has a float32 scale for each row."""

    model_dtype: ModelDtype = "float32"
    """Dtype in which the language model runs: float32, bfloat16, float16, float64, or auto for what
    its weights are stored as."""

    held_out_fraction: float = 0.05
    """Share of the rows kept for evaluation, of documents that training never sees; which ones is
    decided by a hash of their text."""

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

    def __post_init__(self) -> None:
        require_given("split", self.split)
        require_model_dtype(self.model_dtype)
        if self.context_length is not None:
            require_integer("context_length", self.context_length, least=3)
        require_integer("shuffle_buffer", self.shuffle_buffer, least=1)
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


def require_given(name: str, value: str) -> None:
    """Raise an InputError if a text has nothing but spaces."""
    if not value.strip():
        raise InputError(f"{name} is empty; give a value")
