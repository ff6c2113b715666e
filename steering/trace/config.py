"""Settings of `sparsteer steer trace`; nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from ...sae.common.errors import InputError
from ...sae.common.paths import FilePath
from ...sae.common.validation import (
    require_choice,
    require_given,
    require_integer,
    require_positive,
    require_positive_integer,
    require_text_field,
    require_tuple,
)
from ...sae.config import ModelDtype, require_model_dtype
from ..config import MOST_DRAWS

Needle = Literal["zero", "noise"]
"""What the needle does to a value vector."""


@dataclass(frozen=True, kw_only=True)
class TraceConfig:
    """Ask whether an intervention removes what a model knows of a concept, or only hides it."""

    intervention: FilePath
    """The intervention: a JSON file, or a folder such as `steer fit` writes."""

    run: FilePath | None = None
    """Folder of the run whose features it steers with; without features --model is enough."""

    model: str | None = None
    """Language model; by default the one that the run's autoencoder was trained on."""

    concept: FilePath
    """Questions about the concept: a .txt file with one on each line, or one in each row of a
    .jsonl, .ndjson, .json, .csv, .tsv, .parquet or .arrow file; also a folder or a quoted
    pattern."""

    unrelated: FilePath
    """Questions about other things."""

    restated: FilePath | None = None
    """The concept asked for in other ways: in other words, in another language, or by prompts that
    are known to get around a refusal."""

    reminders: FilePath | None = None
    """Texts about the concept that are put, all of them, before each of its questions, to see
    whether they bring the answers back."""

    text_field: str | None = None
    """Field of a row that holds the question; by default `prompt`, or those of another layout
    without its answers."""

    words: tuple[str, ...] = ()
    """Words that say the concept, such as Paris; by default the tokens that the intervention's
    direction raises most."""

    n_words: int = 20
    """Tokens of the concept where no --words are given."""

    value_vectors: int = 10
    """MLP value vectors that are taken for the concept's: those nearest to its direction."""

    needle: Needle = "zero"
    """What the reference does to these value vectors: zero takes them away; noise adds normal noise
    to every element."""

    noise: float = 0.1
    """With --needle noise: standard deviation of the noise, in the units of the weights."""

    draws: int = 3
    """How many times as many other value vectors of the same layers are drawn at random, and
    treated likewise, as a control of the needle."""

    max_new_tokens: int = 30
    """Tokens of an answer at most."""

    limit: int | None = None
    """Questions of each file that are asked; by default all."""

    chat: bool = False
    """Wrap each question as a user's message in the model's chat template."""

    seed: int = 0
    """Seed of the noise and of the value vectors that are drawn."""

    batch_size: int = 16
    """Questions in one forward pass."""

    out: FilePath | None = None
    """JSON file for the result, answers included; by default none is written."""

    force: bool = False
    """Replace what is at --out."""

    model_dtype: ModelDtype | None = None
    """Dtype in which the language model runs: float32, bfloat16, float16, float64, or auto for what
    its weights are stored as. By default as when the autoencoder's activations were read, or
    float32."""

    allow_other_weights: bool = False
    """Take a language model though its weights are not those that the autoencoder was trained on,
    or the intervention fitted to; by default that is refused."""

    device: str = "auto"
    """Where to run: auto, cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        for name in ("intervention", "concept", "unrelated", "device"):
            require_given(name, getattr(self, name))
        if self.run is None and self.model is None:
            raise InputError(
                "run is missing; give the folder of a run, or --model with an intervention that "
                "has no features",
                field="run",
            )
        require_text_field("text_field", self.text_field)
        require_tuple("words", self.words)
        if not all(word.strip() for word in self.words):
            raise InputError("words has an empty one; give words of the concept", field="words")
        require_choice("needle", self.needle, get_args(Needle))
        require_positive("noise", self.noise)
        for name in ("n_words", "value_vectors", "max_new_tokens", "batch_size"):
            require_positive_integer(name, getattr(self, name))
        require_integer("draws", self.draws, least=1, most=MOST_DRAWS)
        if self.limit is not None:
            require_positive_integer("limit", self.limit)
        require_integer("seed", self.seed, least=0)
        require_model_dtype(self.model_dtype)
