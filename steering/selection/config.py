"""Settings of scoring and selection; nothing here imports torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ...sae.common.errors import InputError
from ...sae.common.paths import FilePath
from ...sae.common.validation import (
    require_choice,
    require_given,
    require_integer,
    require_positive_integer,
    require_ratio,
    require_text_field,
)
from ...sae.config import ModelDtype, require_model_dtype
from ..registries import SELECTION_METHODS

DEFAULT_METHOD = "jaccard"


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Which rows to score against which target, through which autoencoder."""

    file: FilePath
    """Rows to score: a .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow or .txt file (a text on
    each line), the text ones also as .gz, .bz2, .xz or .zst; a folder of such files, what
    `datasets` saved with save_to_disk, or a quoted pattern."""

    target: FilePath
    """Examples of the task that the rows should help with, in any of these formats; a few to a
    few hundred."""

    run: FilePath
    """Run folder with the autoencoder (`sae/`), or the folder of an autoencoder."""

    out: FilePath
    """Where the rows go, unchanged and in order, with the new columns; in the format of FILE, texts
    as .jsonl, and compressed if its name ends so."""

    method: Annotated[str, SELECTION_METHODS] = DEFAULT_METHOD
    """How rows are compared with the target: jaccard, by their mean codes; mean_activation, by the
    cosine of their mean activations; length, by their numbers of tokens; random, not at all, a
    number drawn with the seed. The last three say what the first is worth."""

    seed: int = 0
    """Seed of a method that draws at random."""

    field: str | None = None
    """Field that holds a row's text; `A+B` joins several by a blank line, `A.B` is a field in an
    object, and a list of chat messages counts as its messages' texts. By default the layout is
    detected: messages, conversations, instruction with input and output, chosen with its prompt,
    prompt with completion, question or query with answer, or text."""

    target_field: str | None = None
    """The same for the target; by default `field`, or the target's own detected layout."""

    long_rows: Literal["truncate", "skip"] = "truncate"
    """What becomes of a row longer than `max_length`: scored by its beginning (status truncated),
    or not scored (status too_long)."""

    max_length: int | None = None
    """Tokens read of a row, BOS not counted; by default 1024, or the model's context if shorter."""

    batch_size: int = 32
    """Rows in one forward pass; fewer where they are long."""

    part_rows: int = 512
    """Rows scored between two saves; an interrupted run loses at most so many."""

    skip_bad_rows: bool = False
    """Leave out rows that cannot be read, such as a line that is cut off; by default they are named
    and nothing is scored."""

    prefix: str = "sparsteer"
    """The new columns are PREFIX_score, PREFIX_status and PREFIX_tokens."""

    force: bool = False
    """Replace a file that is at `out`, and score anew what is complete."""

    model: str | None = None
    """Language model; by default the one that the autoencoder was trained on."""

    site: str | None = None
    """Site in it; by default the one that the autoencoder was trained on."""

    model_dtype: ModelDtype | None = None
    """Dtype in which the language model runs: float32, bfloat16, float16, float64, or auto for what
    its weights are stored as. By default as when the activations were read
    that the autoencoder was trained on."""

    allow_other_weights: bool = False
    """Take a language model though the model's weights are not those that the autoencoder
    was trained on, and say so; by default that is refused."""

    device: str = "auto"
    """Where to run: auto, cpu, cuda or cuda:N; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        require_model_dtype(self.model_dtype)
        SELECTION_METHODS.require(self.method)
        require_integer("seed", self.seed, least=0)
        for name in ("file", "target", "run", "out", "prefix"):
            require_given(name, getattr(self, name))
        for name in ("field", "target_field"):
            require_text_field(name, getattr(self, name))
        for name in ("batch_size", "part_rows"):
            require_positive_integer(name, getattr(self, name))
        if self.max_length is not None:
            require_positive_integer("max_length", self.max_length)
        require_choice("long_rows", self.long_rows, ("truncate", "skip"))


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """Which rows of a scored file to take."""

    file: FilePath
    """Rows with a column of scores, as `score` writes them, in any format that it reads."""

    out: FilePath
    """Where the chosen rows go, unchanged and in their order; in the format of FILE."""

    ratio: float | None = None
    """Fraction of all rows to take, above 0 and at most 1: the nearest whole number, at least
    one."""

    count: int | None = None
    """Rows to take; instead of `ratio`."""

    column: str = "sparsteer_score"
    """Column of the scores; the highest are taken, of equal ones the first."""

    force: bool = False
    """Replace a file of other content that is at `out`."""

    def __post_init__(self) -> None:
        for name in ("file", "out", "column"):
            require_given(name, getattr(self, name))
        if (self.ratio is None) == (self.count is None):
            raise InputError(
                "give either --ratio or --count, the two ways to say how many rows to take"
            )
        if self.ratio is not None:
            require_ratio("ratio", self.ratio)
        if self.count is not None:
            require_positive_integer("count", self.count)


@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    """Which row of a scored file to take apart, through which autoencoder."""

    file: FilePath
    """Rows with their scores, as `score` wrote them; the file OUT.scoring must lie beside it."""

    row: int
    """Number of the row, counted from 1."""

    run: FilePath
    """Run folder with the autoencoder (`sae/`) that scored the rows, or its folder."""

    target: FilePath | None = None
    """The examples that the rows were scored against; by default where they were then."""

    features: int = 10
    """Features that are shown, those with the largest shares of the score first."""

    model: str | None = None
    """Language model; by default the one that the autoencoder was trained on."""

    site: str | None = None
    """Site in it; by default the one that the autoencoder was trained on."""

    model_dtype: ModelDtype | None = None
    """Dtype in which the language model runs: float32, bfloat16, float16, float64, or auto for what
    its weights are stored as. By default as when the activations were read
    that the autoencoder was trained on."""

    allow_other_weights: bool = False
    """Take a language model though the model's weights are not those that the autoencoder
    was trained on, and say so; by default that is refused."""

    device: str = "auto"
    """Where to run: auto, cpu, cuda or cuda:N; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        require_model_dtype(self.model_dtype)
        for name in ("file", "run"):
            require_given(name, getattr(self, name))
        require_positive_integer("row", self.row)
        require_positive_integer("features", self.features)
