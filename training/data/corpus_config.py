"""How the text of a corpus becomes activation rows, checked when it is made; imports no torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from ...sae.common.validation import (
    require_choice,
    require_given,
    require_in_range,
    require_integer,
    require_text_field,
)
from ...sae.config import ModelDtype, require_model_dtype

CacheDtype = Literal["float16", "bfloat16", "float32", "int8"]

DEFAULT_CONTEXT_LENGTH = 128


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """What a cache and a stream of activations have in common."""

    context_length: int | None = None
    """Tokens in one context, BOS included. Default: 128, or as many as the language model reads if
    those are fewer."""

    dtype: CacheDtype | None = None
    """How activations are stored; int8 has a float32 scale for each row. Default: bfloat16 where
    the language model runs in bfloat16 on a GPU, else float16; what was begun goes on in its
    own."""

    model_dtype: ModelDtype | None = None
    """Dtype in which the language model runs: float32, bfloat16, float16, float64, or auto for what
    its weights are stored as. Default: bfloat16 where the processor or GPU multiplies it natively,
    else float32; a cache that was begun goes on in its own."""

    held_out_fraction: float = 0.05
    """Fraction of the rows kept for evaluation, of documents that training never sees; which ones
    is decided by a hash of their text."""

    text_field: str | None = None
    """Field that holds the text; `A+B` joins two by a blank line, `A.B` is a field in an object.
    Default: `text`, or the right ones of a fetched name or of a layout such as chat messages or
    instructions."""

    chat: bool = False
    """Write messages, or a prompt and its answer, as turns in the language model's chat template.
    Default: their texts alone, one after the other."""

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
        if self.dtype is not None:
            require_choice("dtype", self.dtype, get_args(CacheDtype))
        require_in_range(
            "held_out_fraction", self.held_out_fraction, low=0.0, high=1.0, below_high=True
        )
        require_text_field("text_field", self.text_field)
