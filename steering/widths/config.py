"""Settings of `sparsteer detox widths`, checked when they are made; imports no torch."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from ...sae.common.errors import InputError
from ...sae.common.paths import FilePath
from ...sae.common.validation import require_in_range, require_tuple
from ...sae.config import ModelDtype
from ..registries import FEATURE_GATES, SCORERS
from ..study.config import StudyConfig

METHODS = {
    "sae": "best latent",
    "sae_group": "group",
    "sae_group_mean": "mean of the group",
}
"""What is steered with in every dictionary, in words; each is a method of `detox eval`."""

_OWN = ("runs", "out", "least_cosine", "cache")
"""Settings that are not a study's, or that each run's has of its own."""


@dataclass(frozen=True, kw_only=True)
class WidthsConfig:
    """Compare steering with the latents of several dictionaries of one site."""

    runs: tuple[FilePath, ...]
    """Folders of the runs, or a folder that holds them, such as a grid's. The narrowest dictionary
    is the one that the others are held against."""

    out: FilePath
    """Folder of all results; the same command goes on where it was."""

    cost: tuple[str, ...] = ("perplexity=10%",)
    """What steering may cost, by which each strength is chosen: perplexity=10% of neutral text,
    kl=0.3 nats (95th percentile over generated tokens), or strength=1 for the strength itself."""

    tiers: tuple[Annotated[str, FEATURE_GATES], ...] = ("constant",)
    """When the latents are steered."""

    group: str = "auto"
    """Size of the group of latents that a sparse logistic regression chooses: a number, or auto for
    as many as cross-validation says."""

    least_cosine: float = 0.5
    """Cosine of decoder directions from which on latents share one."""

    cache: FilePath | None = None
    """Activation cache, from which a run without a feature index gets one."""

    draws: int | None = None
    """Random latents of each dictionary that the others are held against; by default 10."""

    prompts: FilePath | None = None
    """Beginnings of texts that are continued; by default RealToxicityPrompts, of the side on which
    toxicity is reported."""

    tuning_prompts: FilePath | None = None
    """Beginnings of texts on which strengths are chosen; by default as for `detox eval`."""

    positive: FilePath | None = None
    """Texts that have what is to be steered away from, by which latents are chosen; by default
    RealToxicityPrompts, of the side that is not reported."""

    negative: FilePath | None = None
    """Texts that have not; by default fragments of the fetched news, as long as the positive
    ones."""

    neutral: FilePath | None = None
    """Ordinary texts on which the cost is measured; by default fetched news that nothing was fitted
    to."""

    text_field: str | None = None
    """Field of a row that holds the text; `A+B` joins several, `A.B` is a field in an object. By
    default `text`, or the right ones of a layout such as chat messages or instructions."""

    scorer: tuple[Annotated[str, SCORERS], ...] = ("alt-profanity-check", "toxicity-ngrams")
    """What says how toxic a text is; none of them may have chosen anything."""

    questions: tuple[FilePath, ...] = ()
    """Questions with options, on which the model is asked whether it still knows the answers; by
    default the fetched ones of MMLU."""

    n_prompts: int | None = None
    """Prompts that are continued, at most; by default 200."""

    continuations: int | None = None
    """Continuations of each; by default 25."""

    max_new_tokens: int | None = None
    """Tokens of a continuation at most; by default 20."""

    fit_texts: int | None = None
    """Texts of each kind that latents are chosen by, at most; by default 400."""

    seed: int = 0
    """Seed of the continuations, of random latents and of what is drawn of the texts."""

    batch_size: int = 32
    """Texts in one forward pass."""

    small: bool = False
    """Sizes that a laptop does in minutes, in place of the defaults; what is given beside it
    wins."""

    model: str | None = None
    """Language model; by default the one that the autoencoders were trained on."""

    site: str | None = None
    """Site that is steered; by default the one that the autoencoders were trained on."""

    model_dtype: ModelDtype | None = None
    """Dtype in which the language model runs: float32, bfloat16, float16, float64, or auto for what
    its weights are stored as. By default as when the activations were read
    that the autoencoder was trained on."""

    allow_other_weights: bool = False
    """Take a language model though the model's weights are not those that the autoencoders
    were trained on, and say so; by default that is refused."""

    device: str = "auto"
    """Where to run: auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        require_tuple("runs", self.runs)
        if not self.runs:
            raise InputError("runs is empty; give the folder of at least one run", field="runs")
        require_in_range("least_cosine", self.least_cosine, low=0.0, high=1.0, above_low=True)
        self.study_of(self.runs[0], self.out)  # which checks the rest

    def study_of(self, run: str | Path, out: str | Path) -> StudyConfig:
        """The study of one run: the settings that are given, the others as `detox eval` has them.

        Args:
            run: folder of the run.
            out: folder of the study.

        Raises:
            InputError: a setting is wrong.
        """
        given: dict[str, Any] = {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if each.name not in _OWN and getattr(self, each.name) is not None
        }
        return StudyConfig(
            run=str(run),
            out=str(out),
            methods=(*METHODS, "random_latent"),
            edits=("add",),
            features=1,
            **given,
        )
