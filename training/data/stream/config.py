"""Configuration of a stream of activations, checked when it is made; imports no torch."""

import dataclasses
from dataclasses import dataclass

from ....sae.common.errors import InputError
from ....sae.common.mixtures import Mixture
from ....sae.common.validation import require_given, require_positive_integer
from ....sae.config import ModelDtype
from ..corpus_config import CorpusConfig


@dataclass(frozen=True, kw_only=True)
class StreamConfig(CorpusConfig):
    """What to read, with which model, where activations go to training without being stored."""

    model: str | None = None
    """Without a cache: the language model to read activations from while training, named as for
    `sparsteer cache`. The options of the data behind it are for such a stream."""

    dataset: Mixture | None = None
    """Without a cache: the corpus it reads, named as for `sparsteer cache`, in an order that
    --data-seed decides; should it end, it begins again, in another order unless --shuffle-buffer
    is 1."""

    model_dtype: ModelDtype | None = None
    """Dtype in which the language model runs: float32, bfloat16, float16, float64, or auto for what
    its weights are stored as. Default: bfloat16 on a GPU that multiplies it natively, else float32;
    a run that has begun goes on in its own."""

    chunk_rows: int = 65_536
    """Tokens whose rows are shuffled together; up to twice as many are in memory."""

    forward_contexts: int = 16
    """Contexts in one forward pass of the language model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("model", "dataset"):
            value = getattr(self, name)
            if value is not None:
                require_given(name, value)
        require_positive_integer("chunk_rows", self.chunk_rows)
        require_positive_integer("forward_contexts", self.forward_contexts)

    def require_source(self, cache: str | None) -> None:
        """Raise an InputError unless there is either a cache, or a model and a corpus to stream."""
        if cache is None:
            if self.model is None and self.dataset is None:
                raise InputError(
                    "cache is missing; give the folder of an activation cache, or model and "
                    "dataset to train without one",
                    field="cache",
                )
            for name, other in (("model", "dataset"), ("dataset", "model")):
                if getattr(self, name) is None:
                    raise InputError(
                        f"{name} is missing; a stream of activations needs it beside {other}",
                        field=name,
                    )
            return
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                raise InputError(
                    f"{field.name} is {value!r}, but the activations of {cache} have been read "
                    f"already; leave it out, or leave the cache out to train without one",
                    field=field.name,
                )
