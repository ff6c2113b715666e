"""Settings of `sparsteer features find`; nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from ...sae.common.errors import InputError
from ...sae.common.paths import FilePath
from ...sae.common.validation import (
    require_choice,
    require_given,
    require_in_range,
    require_integer,
    require_positive_integer,
    require_text,
    wrong,
)
from ...sae.config import ModelDtype, require_model_dtype

ContrastRanking = Literal["auroc_mean", "auroc_max", "difference"]
"""How features differ between two sets of texts."""

Ranking = Literal["auroc_mean", "auroc_max", "difference", "output_score", "confidence_change"]
"""The same, or what features do to the next token when they are amplified."""

OUTPUT_RANKINGS = ("output_score", "confidence_change")

OUTPUT_CANDIDATES = 100
"""Features whose outputs are measured where features are ranked by these, unless told otherwise."""

OUTPUT_PROMPT = "From my experience,"
"""The text at whose end features are amplified, as in arXiv 2505.20063 and 2510.03659."""

CROSS_VALIDATED = "auto"
"""The size of a group that cross-validation chooses."""


@dataclass(frozen=True, kw_only=True)
class FindConfig:
    """Rank the features that tell two sets of texts apart."""

    run: FilePath
    """Folder of the run."""

    positive: FilePath
    """Texts that should activate the feature: a .txt file with one on each line, or one in each
    row of a .jsonl, .ndjson, .json, .csv, .tsv, .parquet or .arrow file; also a folder of such
    files or a quoted pattern."""

    negative: FilePath
    """Texts that should not."""

    model: str | None = None
    """Language model; by default the one that the autoencoder was trained on."""

    site: str | None = None
    """Site in it; by default the one that the autoencoder was trained on."""

    rank_by: Ranking = "auroc_mean"
    """What the features are ranked by: AUROC of the mean over a text's tokens, AUROC of the
    largest activation in a text, or the difference of the means; or, among the best by the first,
    how well amplifying a feature makes the model say the feature's own tokens (output score), or
    by how much it changes how sure the model is of the next token."""

    min_firing: float = 0.1
    """Leave out features that fire in a smaller fraction of the positive texts."""

    min_density: float = 0.0
    """Leave out features that fire on a smaller fraction of the rows of the run's feature index."""

    max_density: float = 1.0
    """Leave out features that fire on a larger fraction of the rows of the run's feature index."""

    max_cosine: float | None = None
    """Leave out a feature whose decoder direction has a larger cosine with that of a better one:
    a duplicate."""

    max_cofiring: float | None = None
    """Leave out a feature that fires on the same tokens of these texts as a better one, if the
    tokens on which both fire are a larger fraction of those on which either does."""

    outputs: int | None = None
    """Measure what so many of the best features do to the next token: output score and change of
    confidence. By default 100 where features are ranked by one of these, else none."""

    output_prompt: str = OUTPUT_PROMPT
    """The text at whose end features are amplified for that."""

    group: str | None = None
    """Also choose a group of features that tells the texts apart together, by a sparse logistic
    regression: a number of features, or auto for as many as cross-validation says."""

    explain: int = 0
    """Show so many texts for each feature that decided its place, and so many that speak against
    it."""

    allow_reporting_side: bool = False
    """Take RealToxicityPrompts prompts of the side on which toxicity is reported, too; by default
    that is refused, since features chosen on them would be judged on what chose them."""

    top: int = 20
    """Features to show."""

    max_length: int | None = None
    """Tokens read of each text, BOS not counted; by default 256, or the model's context if shorter.
    The rest is cut, and how many texts were cut is said."""

    batch_size: int = 16
    """Texts in one forward pass."""

    text_field: str | None = None
    """Field of a row that holds the text; `A+B` joins several, `A.B` is a field in an object. By
    default `text`, or the right ones of a layout such as chat messages or instructions."""

    seed: int = 0
    """Seed of the shuffled labels that show what chance alone would find, and of what a group is
    held against."""

    model_dtype: ModelDtype | None = None
    """Dtype in which the language model runs: float32, bfloat16, float16, float64, or auto for what
    its weights are stored as. By default as when the activations were read
    that the autoencoder was trained on."""

    allow_other_weights: bool = False
    """Take a language model though the model's weights are not those that the autoencoder
    was trained on, and say so; by default that is refused."""

    device: str = "auto"
    """Where to run: auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        require_model_dtype(self.model_dtype)
        for name in ("top", "batch_size"):
            require_positive_integer(name, getattr(self, name))
        if self.max_length is not None:
            require_positive_integer("max_length", self.max_length)
        for name in ("min_firing", "min_density", "max_density"):
            require_in_range(name, getattr(self, name), low=0.0, high=1.0)
        require_integer("seed", self.seed, least=0)
        require_choice("rank_by", self.rank_by, get_args(Ranking))
        if self.min_density > self.max_density:
            raise InputError(
                f"min_density is {self.min_density:g}, above max_density ({self.max_density:g}), "
                "so no feature is left; lower it",
                field="min_density",
            )
        for name in ("max_cosine", "max_cofiring"):
            if (value := getattr(self, name)) is not None:
                require_in_range(name, value, low=0.0, high=1.0)
        if self.outputs is not None:
            require_positive_integer("outputs", self.outputs)
        require_text("output_prompt", self.output_prompt)
        require_given("output_prompt", self.output_prompt)
        measured = outputs_to_measure(self.outputs, self.rank_by, self.top)
        if self.output_prompt != OUTPUT_PROMPT and not measured:
            raise InputError(
                "output_prompt is given, but no output is measured; give --outputs N, or leave it "
                "out",
                field="output_prompt",
            )
        group_size(self.group)
        require_integer("explain", self.explain, least=0)

    @property
    def filters_by_density(self) -> bool:
        """Whether the densities of a feature index are needed."""
        return self.min_density > 0 or self.max_density < 1


def outputs_to_measure(outputs: int | None, rank_by: Ranking, top: int) -> int:
    """Of how many features the output is measured: as many as given; by default of 100, or `top` if
    that is more, where features are ranked by it, else of none."""
    if outputs is None:
        return max(OUTPUT_CANDIDATES, top) if rank_by in OUTPUT_RANKINGS else 0
    return outputs


def group_size(group: str | None) -> int | None:
    """The size of the group that the option asks for: 0 if cross-validation chooses it, None if
    there is to be none.

    Raises:
        InputError: it is neither a whole number of at least 1 nor auto.
    """
    if group is None:
        return None
    if group == CROSS_VALIDATED:
        return 0
    if group.isascii() and group.isdecimal() and 0 < len(group) < 10 and int(group) > 0:
        return int(group)
    raise wrong("group", group, f"a whole number of at least 1, or {CROSS_VALIDATED}")
