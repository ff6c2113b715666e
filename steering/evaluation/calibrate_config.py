"""What an intervention's strength is calibrated to, checked when it is made; imports no torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from ...sae.common.errors import InputError
from ...sae.common.paths import FilePath
from ...sae.common.validation import (
    require_choice,
    require_finite,
    require_given,
    require_integer,
    require_positive,
    require_positive_integer,
    require_text_field,
)
from ...sae.config import ModelDtype, require_model_dtype
from ...sae.device_map import require_device_map
from ..config import MOST_CONTINUATIONS, Sampling
from .budget import BUDGET_KINDS, Budget, BudgetKind, fraction_of

_FRACTIONS: tuple[BudgetKind, ...] = tuple(kind for kind in BUDGET_KINDS if kind != "kl")


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """Find the strength at which an intervention has a cost."""

    intervention: FilePath
    """The intervention: a folder, such as `steer fit` and Intervention.save write, or a JSON file,
    such as the playground saves."""

    kl: float | None = None
    """The cost: KL(steered || unsteered) of the next-token prediction, in nats, over the tokens
    that the steered model writes after the prompts, of which --statistic says what is taken."""

    perplexity: str | None = None
    """The cost: by how much the perplexity of --neutral texts rises, 10% or 0.1."""

    continuation_perplexity: str | None = None
    """The cost: by how much the unsteered model's perplexity of what is written after the prompts
    rises, 10% or 0.1, above that of what it writes itself."""

    repetition: str | None = None
    """The cost: by how much the fraction of repeated runs of three tokens in what is written rises
    above that of the unsteered model's texts, 0.1 or 10%."""

    out: FilePath | None = None
    """Folder for the intervention at that strength, with calibration.json and a page that draws
    what was measured. Without it nothing is written."""

    run: FilePath | None = None
    """Run folder with the autoencoder, where the intervention has features."""

    model: str | None = None
    """Language model; by default the one that the autoencoder of --run was trained on, or that the
    intervention was fitted to."""

    prompts: FilePath | None = None
    """File of prompts: .txt with one on each line, or one in each row of a .jsonl, .ndjson, .json,
    .csv, .tsv, .parquet or .arrow file; also a folder of such files or a quoted pattern. By default
    RealToxicityPrompts prompts of the side that is not reported on, which are fetched."""

    n_prompts: int = 32
    """Prompts that are continued at most, the first ones."""

    text_field: str | None = None
    """Field of a row of --prompts that holds the prompt; `A+B` joins several, `A.B` is a field in
    an object. By default `prompt`, or those of another layout without its answers."""

    neutral: FilePath | None = None
    """For --perplexity: texts that have nothing to do with what is steered, and that nothing was
    fitted to, in files as for --prompts."""

    continuations: int = 1
    """Continuations of each prompt."""

    max_new_tokens: int = 20
    """Tokens of a continuation at most."""

    temperature: float = 1.0
    """Logits are divided by it before a token is drawn; 0 always takes the likeliest token."""

    top_p: float = 0.9
    """Only the likeliest tokens are drawn whose probabilities together reach this; 1 draws from
    all."""

    seed: int = 0
    """Seed of the first continuation of each prompt; the next has the next one."""

    statistic: Literal["p95", "mean"] = "p95"
    """With --kl: the 95th percentile over tokens, or their mean. The percentile is 0 while a gate
    is open at fewer than a twentieth of the tokens."""

    start: float = 1.0
    """The strength that is tried first, as a multiple of the intervention's own; a negative one
    steers the other way."""

    largest: float | None = None
    """Multiple of the intervention's own strength that is not exceeded, such as 1 for an edit that
    leads to a value."""

    tolerance: float = 0.1
    """A cost of at least the wanted one / (1 + tolerance) and at most the wanted one
    * (1 + tolerance) is near enough."""

    evaluations: int = 6
    """Strengths that are tried at most."""

    max_length: int = 128
    """Tokens read of each neutral text at most, BOS included."""

    batch_size: int = 16
    """Texts in one forward pass."""

    allow_reporting_side: bool = False
    """Take RealToxicityPrompts prompts of the side on which toxicity is reported, too; by default
    they are refused."""

    allow_other_weights: bool = False
    """Take a language model with other weights than the one that the intervention was fitted to or
    the autoencoder trained on; by default that is refused."""

    model_dtype: ModelDtype | None = None
    """Dtype in which the language model runs: float32, bfloat16, float16, float64, or auto for what
    its weights are stored as. By default as when the activations were read that the autoencoder was
    trained on, else float32."""

    device: str = "auto"
    """Where to run: auto, cpu, cuda or cuda:N; auto takes a GPU if there is one."""

    device_map: str | None = None
    """Spread a language model that is too large for one device, in place of --device: auto,
    balanced (over GPUs), or a JSON object of module names and devices (a GPU's number, cpu, disk).
    It then runs without TransformerLens' bridge, through the package accelerate."""

    force: bool = False
    """Replace an earlier calibration in --out."""

    def __post_init__(self) -> None:
        require_given("intervention", self.intervention)
        require_given("device", self.device)
        require_device_map(self.device_map, self.device)
        require_model_dtype(self.model_dtype)
        require_text_field("text_field", self.text_field)
        require_choice(
            "statistic", self.statistic, get_args(type(self).__annotations__["statistic"])
        )
        for name in ("n_prompts", "max_new_tokens", "evaluations", "max_length"):
            require_positive_integer(name, getattr(self, name))
        require_integer("continuations", self.continuations, least=1, most=MOST_CONTINUATIONS)
        require_positive_integer("batch_size", self.batch_size)
        require_integer("seed", self.seed, least=0)
        require_finite("start", self.start)
        if self.start == 0:
            raise InputError("start is 0, but must be a strength; give 1", field="start")
        require_positive("tolerance", self.tolerance)
        if self.largest is not None:
            require_positive("largest", self.largest)
        self._require_one_cost()
        _ = self.budget  # which checks itself
        self._require_texts()
        if self.continuations > 1 and self.temperature == 0:
            raise InputError(
                f"continuations is {self.continuations}, but at temperature 0 all are one; give a "
                "temperature, or one continuation",
                field="continuations",
            )
        _ = self.sampling

    @property
    def budget(self) -> Budget:
        """The cost that is wanted."""
        if self.kl is not None:
            require_positive("kl", self.kl)
            return Budget("kl", self.kl)
        kind: BudgetKind = next(name for name in _FRACTIONS if getattr(self, name) is not None)
        return Budget(kind, fraction_of(kind, getattr(self, kind)))

    @property
    def sampling(self) -> Sampling:
        """How prompts are continued."""
        return Sampling(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p if self.temperature else 1.0,
            seed=self.seed,
            batch_size=self.batch_size,
        )

    def _require_one_cost(self) -> None:
        given = [name for name in ("kl", *_FRACTIONS) if getattr(self, name) is not None]
        if not given:
            raise InputError(
                "kl is missing; give the wanted cost: --kl 0.5, --perplexity 10%, "
                "--continuation-perplexity 10% or --repetition 0.1",
                field="kl",
            )
        if len(given) > 1:
            other = given[0].replace("_", "-")
            raise InputError(
                f"{given[1]} cannot stand beside --{other}; give one cost", field=given[1]
            )
        if self.statistic != "p95" and self.kl is None:
            raise InputError(
                f"statistic is {self.statistic}, which is of --kl; leave it out", field="statistic"
            )

    def _require_texts(self) -> None:
        if self.perplexity is None:
            if self.neutral is not None:
                raise InputError(
                    "neutral is given without --perplexity, which alone is measured on it; leave "
                    "it out",
                    field="neutral",
                )
        elif self.neutral is None:
            raise InputError(
                "neutral is missing, on which the rise of perplexity is measured; give --neutral "
                "FILE",
                field="neutral",
            )
        elif self.prompts is not None:
            raise InputError(
                "prompts is given with --perplexity, which is measured on --neutral; leave it out",
                field="prompts",
            )
        if self.text_field is not None and self.prompts is None:
            raise InputError(
                f"text_field is {self.text_field!r}, but there is no --prompts; leave it out",
                field="text_field",
            )
