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
)
from ...sae.config import ModelDtype, require_model_dtype
from ...sae.device_map import require_device_map
from ..registries import FIT_METHODS
from .trained_options import OF_METHOD, TrainedOptions

Pool = Literal["tokens", "texts", "last", "matched", "answer", "each"]
EditKind = Literal["add", "project_out"]

OF_METHODS = (
    *("pool", "answer_token", "edit_kind", "score", "center", "ridge", "penalty", "components"),
    *("variance", "coverage", "edits_of"),
    *dict.fromkeys(name for names in OF_METHOD.values() for name in names if name != "penalty"),
)
"""Settings that go with some methods only; each method names its own."""


_CENTERS = {"covariance": ("all", "group"), "principal_component": ("none", "pairs")}


@dataclass(frozen=True, kw_only=True)
class FitConfig(TrainedOptions):
    """Fit a steering method to texts, to an observable, or to two models."""

    method: Annotated[str, FIT_METHODS]
    """How the direction or the gate is found; docs/fitting.md says what each method is."""

    model: str | None = None
    """Language model, named as for `sparsteer cache`; with --models it is the first of them."""

    out: FilePath
    """Folder for what was fitted: an intervention, which generate takes, and fit.json."""

    site: tuple[str, ...] = ()
    """Sites to fit at; of several the one that tells the texts apart best is taken, but lin_act,
    lineas and model_pair edit each. By default the residual after the middle layer, or with
    --edits-of the site of those."""

    positive: FilePath | None = None
    """Texts that have what the direction stands for: a .txt file with one on each line, or one in
    each row of a .jsonl, .ndjson, .json, .csv, .tsv, .parquet or .arrow file; also a folder of such
    files or a quoted pattern. With reft_r1 rows with `response`, and `prompt` if there is one."""

    negative: FilePath | None = None
    """Texts that do not; with --positive."""

    pairs: FilePath | None = None
    """Rows with `positive` and `negative`, in place of two files; where both begin alike, that may
    stand in `prompt`."""

    scored: FilePath | None = None
    """Rows with `text` and a number `score`, for covariance."""

    observable: str | None = None
    """With observable: the tokens that are to come more often and less often, each behind its sign:
    '+ he - she' for the words with a space before them, '+he -she' without."""

    models: tuple[str, ...] = ()
    """With model_pair: two models of one architecture, of which the first is to be steered."""

    texts: FilePath | None = None
    """With model_pair: what both models read, rows with `answer` where --keep or --compare needs
    it. With observable: beginnings of texts at which gradients are taken; by default six."""

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
    """With --pool answer: the token at this place from the text's end in place of the first that
    differs: 1 is the last, 2 the one before."""

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

    penalty: float | None = None
    """With logistic and dsas: coefficient of half the squared weights of standardized coordinates,
    beside the summed loss; by default 1. With reft_r1: weight of the mean activation of tokens that
    are not among the largest; by default 0.005."""

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
    """Seed of the choice of what is held out, and, of methods that fit to one site, of tokens where
    there are more than 20,000."""

    max_length: int | None = None
    """Tokens read of each text, BOS not counted; by default 256, with lin_act, lineas and reft_r1
    128, or the model's context if shorter. observable reads its prompts whole."""

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
        self._require_model()
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
        if self.penalty is not None and self.method != "reft_r1":
            require_positive("penalty", self.penalty)
        self.require_right(self.method)
        if self.ridge is not None:
            require_positive("ridge", self.ridge)
        require_integer("seed", self.seed, least=0)
        for name in ("batch_size", "components"):
            require_positive_integer(name, getattr(self, name))
        if self.max_length is not None:
            require_positive_integer("max_length", self.max_length)
        if self.answer_token is not None:
            require_positive_integer("answer_token", self.answer_token)
            if self.pool not in (None, "answer"):
                raise InputError(
                    f"answer_token is {self.answer_token}, but pool is {self.pool}; leave one of "
                    "them out",
                    field="answer_token",
                )
        centers = _CENTERS.get(self.method, ())
        if self.center is not None and centers:
            require_choice("center", self.center, centers)
        self._require_one_source()

    def _require_model(self) -> None:
        if self.models and len(self.models) != 2:
            raise InputError(
                f"models names {len(self.models)}; give two, of which the first is to be steered",
                field="models",
            )
        if self.models and self.model is not None:
            raise InputError("model cannot stand beside --models; leave it out", field="model")
        if not self.models and not self.model:
            raise InputError("model is missing; give --model M", field="model")

    def _require_one_source(self) -> None:
        """Raise an InputError unless what is fitted to is given in one way."""
        given = ["positive"] if self.positive or self.negative else []
        given += [n for n in ("scored", "observable", "models") if getattr(self, n)]
        if self.pairs is not None and self.observable is None:
            given.insert(0, "pairs")
        if not given:
            raise InputError(
                "positive is missing; give --positive and --negative, or --pairs, or --scored, or "
                "--observable, or --models",
                field="positive",
            )
        if len(given) > 1:
            raise InputError(
                f"{given[0]} cannot stand beside --{given[1]}; give texts in one way",
                field=given[0],
            )
        if self.negative is not None and self.positive is None:
            raise InputError("negative is given without --positive; give both", field="negative")
        if self.texts is not None and not (self.models or self.observable):
            raise InputError(
                "texts is given without --models or --observable; leave it out", field="texts"
            )
        if self.models and self.texts is None:
            raise InputError("texts is missing; give what both models read", field="texts")

    def given(self) -> list[str]:
        """Settings of single methods that are not as they are by default."""
        default = {each.name: each.default for each in fields(self)}
        return [name for name in OF_METHODS if getattr(self, name) != default[name]]
