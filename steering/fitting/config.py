"""What to fit to what, checked when it is made; imports no torch."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal, get_args

from ...sae.common.errors import InputError
from ...sae.common.paths import FilePath
from ...sae.common.validation import (
    require_choice,
    require_given,
    require_in_range,
    require_integer,
    require_positive,
    require_positive_integer,
    require_text_field,
    require_tuple,
    wrong,
)
from ...sae.config import ModelDtype, require_model_dtype
from ...sae.device_map import require_device_map
from ..registries import FIT_METHODS

Pool = Literal["tokens", "texts", "last", "matched", "answer", "each"]
EditKind = Literal["add", "project_out"]

OF_METHODS = (
    *("pool", "answer_token", "edit_kind", "score", "center", "ridge", "penalty", "components"),
    *("variance", "coverage", "edits_of"),
)
"""Settings that go with some methods only; each method names its own."""


_CENTERS = {"covariance": ("all", "group"), "principal_component": ("none", "pairs")}


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Fit a steering method to texts."""

    method: Annotated[str, FIT_METHODS]
    """How the direction or the gate is found; docs/fitting.md says what each method is."""

    model: str
    """Language model, named as for `sparsteer cache`."""

    out: FilePath
    """Folder for what was fitted: fitted.json and vectors.safetensors."""

    site: tuple[str, ...] = ()
    """Sites to fit at; of several the one that tells the texts apart best is taken. By default the
    residual after the middle layer, or with --edits-of the site of those."""

    positive: FilePath | None = None
    """Texts that have what the direction stands for: a .txt file with one on each line, or one in
    each row of a .jsonl, .ndjson, .json, .csv, .tsv, .parquet or .arrow file; also a folder of such
    files or a quoted pattern."""

    negative: FilePath | None = None
    """Texts that do not; with --positive."""

    pairs: FilePath | None = None
    """Rows with `positive` and `negative`, in place of two files; where both begin alike, that may
    stand in `prompt`."""

    scored: FilePath | None = None
    """Rows with `text` and a number `score`, for covariance."""

    neutral: FilePath | None = None
    """Texts of no special kind, on which is measured what steering at strength 1 changes; by
    default that is not measured."""

    text_field: str | None = None
    """Field of a row that holds the text; `A+B` joins several, `A.B` is a field in an object. By
    default `text`, or the right ones of a layout such as chat messages or instructions."""

    pool: Pool | None = None
    """What of a text is compared: tokens, its content tokens, each counting alike; texts, their
    mean, each text counting alike; last, its last token; matched, tokens so weighted that lengths
    do not matter; answer, the first token in which a pair differs; each, every token as a row of
    its own. By default as the method is published."""

    answer_token: int | None = None
    """With --pool answer: the token at this place counted from the text's end in place of the first
    that differs; -1 is the last."""

    edit_kind: EditKind = "add"
    """What is done along the direction: add it, or project_out, which takes the activation's part
    along it away."""

    score: Literal["given", "entropy"] = "given"
    """With covariance: the scores that the rows have, or the entropy of the next token behind each
    text, which the model gives."""

    center: Literal["all", "group", "none", "pairs"] | None = None
    """With covariance all (default) or group: compare all texts, or those with the same `group`
    field only. With principal_component none (default) or pairs: whether the mean difference is
    taken off the pair differences first, as published code does."""

    ridge: float | None = None
    """With whitened_mean: added to every coordinate's variance, as a fraction of their mean; by
    default the shrinkage of Ledoit and Wolf."""

    penalty: float = 1.0
    """With logistic and dsas: coefficient of half the squared weights of standardized coordinates,
    beside the summed loss."""

    components: int = 5
    """With dsas: principal components that the gate reads."""

    variance: float = 0.4
    """With ids: fraction of the variance that the principal components must hold."""

    coverage: float = 0.95
    """With ids: fraction of the rows whose distance is within the budget."""

    edits_of: FilePath | None = None
    """With a gate (cast, dsas, ids): folder of an earlier fit, whose edits the gate is put to. By
    default there is a gate and no edit."""

    held_out: float = 0.3
    """Fraction of the texts, pairs or groups that are not fitted to, on which the separation is
    measured; 0 fits to all."""

    seed: int = 0
    """Seed of the choice of what is held out, and of tokens where there are more than 20,000."""

    max_length: int | None = None
    """Tokens read of each text, BOS not counted; by default 256, or the model's context if
    shorter."""

    batch_size: int = 16
    """Texts in one forward pass."""

    allow_reporting_side: bool = False
    """Take RealToxicityPrompts prompts of the side on which toxicity is reported, too; by default
    they are refused."""

    model_dtype: ModelDtype = "float32"
    """Dtype in which the language model runs: float32, bfloat16, float16, float64, or auto for what
    its weights are stored as."""

    device: str = "auto"
    """Where to run: auto, cpu, cuda or cuda:N; auto takes a GPU if there is one."""

    device_map: str | None = None
    """Spread a language model that is too large for one device, in place of --device: auto,
    balanced (over GPUs), or a JSON object of module names and devices (a GPU's number, cpu, disk).
    It then runs without TransformerLens' bridge, through the package accelerate."""

    force: bool = False
    """Replace what is in --out."""

    def __post_init__(self) -> None:
        FIT_METHODS.require(self.method)
        require_given("model", self.model)
        require_given("device", self.device)
        require_tuple("site", self.site)
        require_text_field("text_field", self.text_field)
        require_model_dtype(self.model_dtype)
        require_device_map(self.device_map, self.device)
        for name, kind in (("pool", Pool), ("edit_kind", EditKind)):
            if getattr(self, name) is not None:
                require_choice(name, getattr(self, name), get_args(kind))
        require_in_range("held_out", self.held_out, low=0.0, high=0.9)
        require_in_range("variance", self.variance, low=0.0, high=1.0, above_low=True)
        require_in_range(
            "coverage", self.coverage, low=0.0, high=1.0, above_low=True, below_high=True
        )
        require_positive("penalty", self.penalty)
        if self.ridge is not None:
            require_positive("ridge", self.ridge)
        require_integer("seed", self.seed, least=0)
        for name in ("batch_size", "components"):
            require_positive_integer(name, getattr(self, name))
        if self.max_length is not None:
            require_positive_integer("max_length", self.max_length)
        if self.answer_token is not None:
            self._require_place(self.answer_token)
        centers = _CENTERS.get(self.method, ())
        if self.center is not None and centers:
            require_choice("center", self.center, centers)
        self._require_one_source()

    def _require_place(self, place: int) -> None:
        """Raise an InputError unless a token's place is counted from the end, and asked for."""
        if type(place) is not int or not -(10**6) <= place < 0:
            raise wrong("answer_token", place, "a whole number from -1 down")
        if self.pool not in (None, "answer"):
            raise InputError(
                f"answer_token is {place}, but pool is {self.pool}; leave one of them out",
                field="answer_token",
            )

    def _require_one_source(self) -> None:
        """Raise an InputError unless texts are given in one way."""
        given = [name for name in ("pairs", "scored") if getattr(self, name) is not None]
        given += ["positive"] if self.positive or self.negative else []
        if not given:
            raise InputError(
                "positive is missing; give --positive and --negative, or --pairs, or --scored",
                field="positive",
            )
        if len(given) > 1:
            raise InputError(
                f"{given[0]} cannot stand beside --{given[1]}; give texts in one way",
                field=given[0],
            )
        if self.negative is not None and self.positive is None:
            raise InputError("negative is given without --positive; give both", field="negative")

    def given(self) -> list[str]:
        """Settings of single methods that are not as they are by default."""
        default = {each.name: each.default for each in fields(self)}
        return [name for name in OF_METHODS if getattr(self, name) != default[name]]
