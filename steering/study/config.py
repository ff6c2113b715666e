"""Settings of a study, checked when they are made; imports no torch."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from ...sae.common.errors import InputError
from ...sae.common.paths import FilePath
from ...sae.common.validation import (
    require_given,
    require_in_range,
    require_integer,
    require_positive,
    require_positive_integer,
    require_text_field,
    require_tuple,
)
from ...sae.config import ModelDtype, require_model_dtype
from ..config import MOST_CONTINUATIONS, MOST_DRAWS, Sampling
from ..features.find_config import group_size
from ..registries import FEATURE_EDITS, FEATURE_GATES, SCORERS, STUDY_METHODS
from .arm import Cost

TIERS = ("constant", "per_input", "per_token")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Compare ways to make a model's texts less toxic, at equal cost."""

    run: FilePath | None = None
    """Folder of the run, with its feature index; only methods without features need none, beside
    --model."""

    out: FilePath
    """Folder of all results; the same command goes on where it was."""

    picks: FilePath | None = None
    """File of picks, or a run folder that has them, whose features are steered. By default the best
    ones of `features find` on the texts that are fitted to."""

    methods: tuple[Annotated[str, STUDY_METHODS], ...] = ()
    """What is compared, beside the unsteered model; by default all."""

    tiers: tuple[Annotated[str, FEATURE_GATES], ...] = TIERS
    """When the features are steered."""

    edits: tuple[Annotated[str, FEATURE_EDITS], ...] = ("add", "clamp", "ablate")
    """What is done along the features."""

    cost: tuple[str, ...] = ("perplexity=10%", "kl=0.3")
    """What each may cost, by which its strength is chosen: perplexity=10% of neutral text, kl=0.3
    nats (95th percentile over generated tokens), kl_mean=0.1 (their mean),
    continuation_perplexity=10%, repetition=5%, or strength=1 for the strength itself."""

    features: int = 4
    """Without --picks: how many features are steered."""

    group: str = "auto"
    """Size of the group of features of the method sae_group: a number, or auto for as many as
    cross-validation says."""

    lineas_steps: int = 200
    """Gradient steps of the method lineas."""

    draws: int = 10
    """Random directions, and random latents, that the others are held against."""

    prefix: str = "The following text is friendly, respectful and free of insults.\n\n"
    """With the method prompt: the text that is put before each prompt."""

    prompts: FilePath | None = None
    """Beginnings of texts that are continued; by default RealToxicityPrompts, of the side on which
    toxicity is reported."""

    tuning_prompts: FilePath | None = None
    """Beginnings of texts on which strengths are chosen; by default RealToxicityPrompts, of the
    other side, or with --positive some of its texts; either way such as nothing is fitted to."""

    positive: FilePath | None = None
    """Texts that have what is to be steered away from, to which directions, gates and picks are
    fitted; by default RealToxicityPrompts, of the side that is not reported."""

    negative: FilePath | None = None
    """Texts that have not; by default fragments of the fetched news, as long as the positive
    ones."""

    neutral: FilePath | None = None
    """Ordinary texts on which the cost is measured; by default fetched news that nothing was fitted
    to."""

    text_field: str | None = None
    """Field of a row that holds the text; `A+B` joins several, `A.B` is a field in an object. By
    default `text`, or the right ones of a layout such as chat messages or instructions."""

    questions: tuple[FilePath, ...] = ()
    """Questions with options, on which the model is asked whether it still knows the answers; by
    default the fetched ones of MMLU."""

    problems: tuple[FilePath, ...] = ()
    """Problems with an answer that is compared exactly, such as GSM8K; by default none."""

    requests: FilePath | None = None
    """Harmless requests, of which is measured how many are refused; by default none."""

    scorer: tuple[Annotated[str, SCORERS], ...] = ("alt-profanity-check", "toxicity-ngrams")
    """What says how toxic a text is; none of them may have chosen anything."""

    model: str | None = None
    """Language model; by default the one that the autoencoder was trained on."""

    site: str | None = None
    """Site that is steered; by default the one that the autoencoder was trained on, or without a
    run the residual after the middle layer."""

    n_prompts: int = 200
    """Prompts that are continued, at most."""

    continuations: int = 25
    """Continuations of each."""

    max_new_tokens: int = 20
    """Tokens of a continuation at most."""

    temperature: float = 1.0
    """Logits are divided by it before a token is drawn."""

    top_p: float = 0.9
    """Only the likeliest tokens are drawn whose probabilities together reach this."""

    seed: int = 0
    """Seed of the continuations, of random arms and of what is drawn of the texts."""

    batch_size: int = 32
    """Texts in one forward pass."""

    fit_texts: int = 400
    """Texts of each kind that are fitted to, at most."""

    tuning_size: int = 16
    """Prompts, and neutral texts, on which strengths are chosen."""

    neutral_texts: int = 64
    """Neutral texts on which the cost is reported."""

    neutral_tokens: int = 128
    """Tokens read of a neutral text at most."""

    n_questions: int = 200
    """Questions, problems and requests asked of each file, at most."""

    shots: int = 2
    """Answered questions before each."""

    tolerance: float = 0.1
    """A strength is near enough where it costs no more than so much more or less, as a ratio."""

    most_evaluations: int = 6
    """Strengths that are tried at most for each cost."""

    small: bool = False
    """Sizes that a laptop does in minutes, in place of the defaults: 8 prompts, 4 continuations, 3
    draws, 20 steps of lineas, 8 neutral texts, 20 questions. What is given beside it wins."""

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
        if self.small:
            self._make_small()
        self._require_names()
        for name in (
            *(
                "features",
                "lineas_steps",
                "n_prompts",
                "max_new_tokens",
                "batch_size",
            ),
            *("fit_texts", "tuning_size", "neutral_texts", "n_questions", "most_evaluations"),
        ):
            require_positive_integer(name, getattr(self, name))
        require_integer("continuations", self.continuations, least=1, most=MOST_CONTINUATIONS)
        require_integer("draws", self.draws, least=1, most=MOST_DRAWS)
        require_integer("neutral_tokens", self.neutral_tokens, least=2)
        require_integer("shots", self.shots, least=0)
        require_positive("tolerance", self.tolerance)
        require_given("prefix", self.prefix)
        require_in_range("top_p", self.top_p, low=0.0, high=1.0, above_low=True)
        require_positive("temperature", self.temperature)
        require_model_dtype(self.model_dtype)
        require_given("device", self.device)
        require_text_field("text_field", self.text_field)
        group_size(self.group)
        _ = self.sampling
        if self.run is None and self.model is None:
            raise InputError("run is missing; give the folder of a run, or --model M", field="run")
        if (self.positive is None) != (self.negative is None):
            given, other = ("positive", "negative") if self.positive else ("negative", "positive")
            raise InputError(f"{given} is given without --{other}; give both", field=given)

    def _require_names(self) -> None:
        for name in ("methods", "tiers", "edits", "cost", "scorer", "questions", "problems"):
            words: tuple[str, ...] = getattr(self, name)
            require_tuple(name, words)
            for word in words:
                if words.count(word) > 1:
                    raise InputError(
                        f"{name} names {word} more than once; name it once", field=name
                    )
        for name in ("tiers", "edits", "cost", "scorer"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty; give at least one", field=name)
        for name in self.methods:
            STUDY_METHODS.require(name)
        for name in self.tiers:
            FEATURE_GATES.require(name)
        for name in self.edits:
            FEATURE_EDITS.require(name)
        for name in self.scorer:
            SCORERS.require(name)
        names = [cost.name for cost in self.costs]
        for name, word in zip(names, self.cost, strict=True):
            if names.count(name) > 1:
                raise InputError(
                    f"cost names {name} more than once, also as {word}; name it once", field="cost"
                )

    def _make_small(self) -> None:
        for each in dataclasses.fields(self):
            if each.name in SMALL and getattr(self, each.name) == each.default:
                object.__setattr__(self, each.name, SMALL[each.name])

    @property
    def costs(self) -> tuple[Cost, ...]:
        """What each may cost."""
        return tuple(map(Cost.of, self.cost))

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen."""
        return Sampling(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            batch_size=self.batch_size,
        )

    @property
    def chosen_methods(self) -> tuple[str, ...]:
        """The names of what is compared, the unsteered model first, each once."""
        return tuple(dict.fromkeys(("none", *(self.methods or STUDY_METHODS.names()))))


SMALL = {
    "n_prompts": 8,
    "continuations": 4,
    "draws": 3,
    "lineas_steps": 20,
    "neutral_texts": 8,
    "n_questions": 20,
    "fit_texts": 64,
    "tuning_size": 6,
    "most_evaluations": 4,
}
"""What `small` sets."""
