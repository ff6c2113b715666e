"""Configurations of evaluation, checked when they are made; imports no torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from ...sae.common.paths import FilePath
from ...sae.common.validation import require_choice, require_integer, require_positive_integer
from ...sae.config import ModelDtype, require_model_dtype
from ...sae.device_map import require_device_map
from ..trainer_config import require_variance_of

EvalPrecision = Literal["auto", "float32", "tf32"]

Baseline = Literal["pca", "random", "raw"]

BASELINES: tuple[str, ...] = get_args(Baseline)
"""Dictionaries to compare with that nobody trained, see `baseline` of baselines.py."""


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """How autoencoders are measured on the held-out part of an activation cache."""

    cache: FilePath
    """Folder of the activation cache."""

    site: str | None = None
    """Site of the cache; by default the one that the autoencoder was trained on."""

    rows: int = 65_536
    """Most held-out rows for the measures of reconstruction and sparsity."""

    contexts: int = 32
    """Held-out contexts for the loss with the autoencoder in place; 0 leaves the language model
    out."""

    model: str | None = None
    """Language model to put it into; by default the one the cache was made with."""

    model_dtype: ModelDtype | None = None
    """Dtype in which the language model runs: float32, bfloat16, float16, float64, or auto for what
    its weights are stored as. By default as when the cache was written."""

    precision: EvalPrecision = "auto"
    """What an autoencoder's products multiply on a GPU while it is measured: float32, or float32
    numbers rounded to tf32. auto: tf32 on a GPU that has it, else float32."""

    allow_other_weights: bool = False
    """Take a cache or language model though the weights are not those that the autoencoder was
    trained on, and say so; by default that is refused."""

    device: str = "auto"
    """Where to run: auto, cpu, cuda or cuda:N."""

    device_map: str | None = None
    """Spread a language model that is too large for one device, in place of --device: auto,
    balanced (over GPUs), or a JSON object of module names and devices (a GPU's number, cpu, disk).
    It then runs without TransformerLens' bridge, through the package accelerate."""

    def __post_init__(self) -> None:
        require_model_dtype(self.model_dtype)
        require_device_map(self.device_map, self.device)
        require_choice("precision", self.precision, get_args(EvalPrecision))
        require_positive_integer("rows", self.rows)
        require_variance_of("rows", self.rows)
        require_integer("contexts", self.contexts, least=0)


@dataclass(frozen=True, kw_only=True)
class EvalConfig(EvalSettings):
    """One autoencoder to measure, and how."""

    sae: FilePath
    """Folder of the autoencoder, or of the run that trained it."""
