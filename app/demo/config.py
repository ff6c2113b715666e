"""Configuration of the demo, checked when it is made; nothing here imports torch."""

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ...sae.common.errors import InputError
from ...sae.common.paths import FilePath
from ...sae.common.shipped import dictionary_of
from ...sae.common.validation import require_finite, require_given, require_positive_integer
from ...sae.config import ModelDtype
from ...steering.config import Sampling
from ...steering.detox.toxicity import DEFAULT_SCORER
from ...steering.features.config import BuildConfig
from ...steering.registries import SCORERS
from ...training.config import ActivationName, TrainConfig
from ...training.data.cache.config import CacheConfig
from ...training.evaluation.config import EvalConfig
from ...training.trainer_config import TrainerConfig

DEMO_ACTIVATIONS: tuple[ActivationName, ...] = ("topk", "top_afa")
"""The autoencoders that the demo trains, in the order of the report."""

OWN = "own"
"""As the dictionary: the autoencoder of the next line, which the demo trains."""
STEERED: ActivationName = "topk"

MOST_PICKS = 32
"""Features that are kept of those found."""

_MOST_NEW_TOKENS = 256
_TEMPERATURE = 0.7

# Judged on 100 prompts of the tuning side, where four features lower toxicity from 0.21 to 0.11 and
# random pushes to 0.18 to 0.20. With twice the push random ones do most of what the features do.
_STRENGTH = -0.5

# Found by trial on the default model and text with 400,000 rows: the usual weight of top-AFA's norm
# loss, 1/32, leaves an FVU of 0.34.
_AFA_COEFFICIENT = 3e-4


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The whole chain on a small scale, and the report that shows what came of it."""

    out: FilePath = "demo"
    """Folder for the cache, the runs and demo-report.html; the same command again reuses what is
    there."""

    model: str = "smollm2-135m"
    """Language model: `smollm2-135m`, a hub name, a folder, or a .gguf file."""

    model_dtype: ModelDtype = "float32"
    """Dtype in which it runs: float32, bfloat16, float16, float64, or auto for what its weights are
    stored as."""

    dataset: str = "news"
    """Corpus: a fetched name, a local file or folder, or a hub name."""

    tokens: int = 200_000
    """Activation rows to cache at the model's middle layer, one for each token that counts."""

    training_tokens: int = 400_000
    """Rows that each autoencoder is trained on; the cached ones come again in a new order."""

    dictionary: FilePath | None = None
    """Autoencoder whose features are found, steered with and selected by: the name of one that
    comes with sparsteer (smollm2-135m-default), the folder of a run that has a feature index, or
    `own` for the top-k one that the demo trains. By default the one that comes with sparsteer for
    the language model; where there is none, own."""

    n_latents: int | None = None
    """Latents in each dictionary; by default 8 times the width of the activations."""

    k: int = 32
    """Latents that topk keeps of each row."""

    batch_size: int | None = None
    """Rows of one training step; by default as `sparsteer train` chooses them."""

    contexts: int = 16
    """Held-out contexts for the loss of the model with an autoencoder at its site."""

    picks: int = 4
    """Features of the dictionary to find and to steer with, at most 32."""

    strength: float = _STRENGTH
    """How far each is pushed, in multiples of its largest activation; negative suppresses it."""

    prompts: int = 100
    """Toxicity prompts, of the reporting side, that are continued with and without steering."""

    new_tokens: int = 20
    """Tokens that are generated for each prompt, at most 256."""

    scorer: Annotated[str, SCORERS] = DEFAULT_SCORER
    """What says how toxic a text is."""

    instructions: str = "instructions"
    """Rows to select from: the fetched name, or a .jsonl file with a column `group`."""

    subject: str = "stem"
    """Group of those rows whose selection is the headline; the report has every group."""

    seed: int = 0
    """Seed of the order of documents and rows, of the initial directions, and of all draws."""

    device: str = "auto"
    """Where to run: auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        require_given("out", self.out)
        for name in ("contexts", "training_tokens", "picks", "prompts", "new_tokens"):
            require_positive_integer(name, getattr(self, name))
        require_finite("strength", self.strength)
        SCORERS.require(self.scorer)
        for name, most in (("picks", MOST_PICKS), ("new_tokens", _MOST_NEW_TOKENS)):
            if getattr(self, name) > most:
                raise InputError(
                    f"{name} is {getattr(self, name)}, more than the demo takes; give at most "
                    f"{most}",
                    field=name,
                )
        cache = self.cache_config()
        batch_size = self.train_config(STEERED).trainer.rows_per_step
        if batch_size > (n_rows := max(0, self.tokens - cache.held_out_rows)):
            raise InputError(
                f"batch_size is {batch_size}, but of {self.tokens} tokens only {n_rows} are "
                "for training; lower the batch size, or raise tokens",
                field="batch_size",
            )
        for activation in DEMO_ACTIVATIONS:
            self.train_config(activation)
            self.eval_config(activation)
        self.build_config()
        self.sampling()

    @property
    def folder(self) -> Path:
        return Path(self.out)

    @property
    def cache(self) -> Path:
        """The folder of the activation cache."""
        return self.folder / "cache"

    @property
    def report(self) -> Path:
        return self.folder / "demo-report.html"

    @property
    def picks_file(self) -> Path:
        """The picks that the demo steers with; those of the run folder are the user's own."""
        return self.folder / "picks.json"

    @property
    def steered(self) -> str:
        """The autoencoder whose features are used: a name that comes with sparsteer, or a run."""
        return self._dictionary or str(self.run(STEERED))

    @property
    def steers_own(self) -> bool:
        """Whether that is one which the demo trains."""
        return self._dictionary is None

    @property
    def _dictionary(self) -> str | None:
        chosen = self.dictionary or dictionary_of(self.model)
        return None if chosen == OWN else chosen

    def run(self, activation: ActivationName) -> Path:
        """The run folder of an autoencoder that the demo trains."""
        return self.folder / "runs" / activation

    def cache_config(self) -> CacheConfig:
        return CacheConfig(
            model=self.model,
            model_dtype=self.model_dtype,
            dataset=self.dataset,
            out=str(self.cache),
            tokens=self.tokens,
            held_out_fraction=0.1,
            seed=self.seed,
            device=self.device,
        )

    def train_config(self, activation: ActivationName) -> TrainConfig:
        trainer = TrainerConfig(
            tokens=self.training_tokens,
            batch_size=self.batch_size,
            afa_coefficient=_AFA_COEFFICIENT,
            seed=self.seed,
            eval_every=50,
            eval_rows=4096,
            checkpoint_every=100,
            keep_checkpoints=1,
            device=self.device,
        )
        return TrainConfig(
            cache=str(self.cache),
            out=str(self.run(activation)),
            activation=activation,
            n_latents=self.n_latents,
            k=self.k if activation == "topk" else None,
            trainer=trainer,
        )

    def eval_config(self, activation: ActivationName) -> EvalConfig:
        return EvalConfig(
            sae=str(self.run(activation)),
            cache=str(self.cache),
            contexts=self.contexts,
            device=self.device,
        )

    def build_config(self) -> BuildConfig:
        """The feature index of the autoencoder that the demo trains to steer with."""
        return BuildConfig(
            run=str(self.run(STEERED)), cache=str(self.cache), seed=self.seed, device=self.device
        )

    def sampling(self) -> Sampling:
        """How the continuations of the prompts are drawn."""
        return Sampling(
            max_new_tokens=self.new_tokens, temperature=_TEMPERATURE, seed=self.seed, batch_size=20
        )

    def command(self) -> str:
        """The shell command that makes this demo again."""
        words = ["sparsteer", "demo"]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                words += [f"--{field.name.replace('_', '-')}", str(value)]
        return shlex.join(words)
