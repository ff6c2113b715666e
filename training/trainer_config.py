"""How an autoencoder is trained, whatever it is and on whatever rows; imports no torch."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from ..sae.common.errors import InputError
from ..sae.common.validation import (
    require_choice,
    require_in_range,
    require_integer,
    require_positive_integer,
    require_tuple,
)
from ..sae.config import SAEConfig
from ..sae.loss_registry import parse_loss_terms
from .defaults import derived_batch_size
from .target_l0 import DEFAULT_TARGET_L0, require_target_for

Precision = Literal["auto", "float32", "tf32", "bfloat16"]


CLOCK_SETTINGS = ("log_seconds", "eval_minutes", "checkpoint_minutes")
"""Settings of a `TrainerConfig` that decide when files are written, and no step: a run may go on
with other ones."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How an autoencoder is trained. Steps are updates; tokens are activation rows."""

    tokens: int = 10_000_000
    """Activation rows to train on; rows come again in a new order when the cache is smaller."""
    batch_size: int | None = None
    """Rows of one update; by default a power of two from 128 to 4096 with which `tokens` are some
    800 updates."""
    lr: float | None = None
    """Adam's learning rate at its highest; by default from the latents, the number of updates and
    the activation, see docs/training.md."""
    warmup_fraction: float = 0.05
    """Fraction of the steps over which the learning rate rises from 0."""
    decay_fraction: float = 0.2
    """Fraction of the steps at the end over which the learning rate falls to 0."""
    beta1: float = 0.9
    """Adam's decay of the first moment."""
    beta2: float = 0.999
    """Adam's decay of the second moment."""
    precision: Precision = "auto"
    """What products multiply, forward and backward: float32, tf32 (float32 numbers rounded to TF32
    by a GPU) or bfloat16, with which weights, moments and losses stay in float32. auto: bfloat16 on
    a GPU that multiplies it natively, or tf32 with `shards`; float32 on a CPU. A run that has begun
    goes on in its own."""
    ema_decay: float | None = None
    """Decay of a moving average of the weights over the steps, which is then what is evaluated and
    saved, such as 0.999. None: the weights of the last step are."""
    clip_norm: float = 0.1
    """Largest norm of all gradients together; longer ones are scaled down to it, as a few rows of
    enormous norm would give. Usual ones are a tenth to a half of the default. 0: no limit."""
    auxk_coefficient: float = 1 / 32
    """Weight of the loss that revives dead latents; 0 turns it off."""
    k_aux: int | None = None
    """Dead latents kept of each row for that loss; by default half of d_model."""
    auxk_fraction: float = 1.0
    """Part of each batch's rows on which that loss is taken, the first ones: batches are shuffled,
    so they are a sample. A quarter saves most of what reviving latents costs."""
    dead_after_tokens: int | None = None
    """Rows without firing after which a latent counts as dead; by default a tenth of `tokens`, at
    most 10 million."""
    multi_topk_coefficient: float = 0.0
    """Weight of a second reconstruction loss with more latents of a row, which only topk has; 1/8
    as published (arXiv 2406.04093), 0 turns it off."""
    multi_topk: int = 4
    """How many times k latents of a row that loss takes."""
    k_start: int | None = None
    """Latents of a row that topk and batch_topk begin with; their number falls linearly to k. None:
    it is k throughout."""
    k_anneal_fraction: float = 0.1
    """Fraction of the steps over which the number of latents falls from `k_start` to k."""
    afa_coefficient: float = 1 / 32
    """Weight of the top-AFA norm loss (lambda); only top_afa uses it. It steers L0, unless
    `target_l0` does."""
    sparsity: Literal["step", "tanh", "quadratic"] = "step"
    """How jumprelu counts active latents: step as they are, which moves only thresholds; tanh
    smoothly, which moves the weights, too; quadratic as step, but of each row by itself."""
    sparsity_coefficient: float = 1.0
    """Weight of jumprelu's sparsity loss, (L0 / target_l0 - 1)^2, with L0 that of the batch or, of
    quadratic, of each row."""
    target_l0: int | None = None
    """Active latents of a row, on average, that training aims at: of jumprelu, by default 32, and
    of top_afa where it is given, which then learns its target scale."""
    whitening: float = 0.0
    """How far rows are whitened for training, from 0, not at all, to 1, in which case all
    directions of a sample have the same variance but for `whitening_shrinkage`. It is folded into
    the weights that are evaluated and saved."""
    whitening_shrinkage: float = 0.01
    """How far the variances of the sample are drawn to their mean before that: with 0.01 no
    direction is stretched more than ten times what one of mean variance is."""
    whitening_loss: Literal["original", "whitened"] = "original"
    """In what units whitened rows and their reconstructions are compared: in those of before, or as
    they are, in which every direction counts alike and less of the variance is rebuilt."""
    loss_term: tuple[str, ...] = ()
    """Further terms of the loss, each NAME=COEFFICIENT: frequency (a penalty on latents that fire
    often), orthogonality (on decoder rows that point the same way), or one that an installed
    package adds (docs/extending.md). 0 measures it alone."""
    seed: int = 0
    """Seed of the initial directions."""
    data_seed: int = 0
    """Seed of the order of the rows; runs with the same one see the same batches."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    log_seconds: float | None = None
    """Seconds between two lines of metrics.jsonl, in place of `log_every`. None: steps decide, so
    that a run has the same lines whenever it is made."""
    eval_every: int = 500
    """Steps between two evaluations on held-out rows."""
    eval_minutes: float | None = None
    """Minutes between two evaluations on held-out rows, in place of `eval_every`. None: steps
    decide."""
    eval_rows: int = 16_384
    """Held-out rows of such an evaluation."""
    checkpoint_every: int = 500
    """Steps between two checkpoints; a killed run loses at most so many and those made while the
    last one was being written, at most so many again."""
    checkpoint_minutes: float | None = None
    """Minutes between two checkpoints, in place of `checkpoint_every`: 500 steps can take a GPU
    less than a second. None: steps decide."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda or cuda:N."""
    shards: int = 1
    """Parts into which the dictionary is cut; each process of torchrun has one. Only topk may have
    several."""
    shard_optimizer: bool = False
    """Let each process of torchrun hold Adam's moments of its part of the rows alone (ZeRO stage
    1): of n processes each has 1/n of them. Results and checkpoints are the same."""

    cuda_graph: bool = False
    """Record the steps of a GPU as CUDA graphs and replay them, which leaves the host little to do.
    Only topk in one process can. Last bits can differ from a run without, as lists of dead latents
    are padded."""

    def __post_init__(self) -> None:
        for name in ("tokens", "log_every", "eval_every", "eval_rows"):
            require_positive_integer(name, getattr(self, name))
        for name in ("checkpoint_every", "keep_checkpoints", "shards"):
            require_positive_integer(name, getattr(self, name))
        for name in ("batch_size", "k_aux", "dead_after_tokens", "k_start", "target_l0"):
            if getattr(self, name) is not None:
                require_positive_integer(name, getattr(self, name))
        for name in ("batch_size", "eval_rows"):
            if getattr(self, name) is not None:
                require_variance_of(name, getattr(self, name))
        for name in ("seed", "data_seed"):
            require_integer(name, getattr(self, name), least=0)
        require_in_range("clip_norm", self.clip_norm, low=0.0, high=1e30)
        require_in_range("auxk_fraction", self.auxk_fraction, low=1e-6, high=1.0)
        if self.ema_decay is not None:
            require_in_range("ema_decay", self.ema_decay, low=0.0, high=1.0, below_high=True)
        if self.lr is not None:
            require_in_range("lr", self.lr, low=1e-30, high=1.0)
        for name in CLOCK_SETTINGS:
            if getattr(self, name) is not None:
                require_in_range(name, getattr(self, name), low=0.0, high=1e6)
        for name in ("warmup_fraction", "decay_fraction", "k_anneal_fraction"):
            require_in_range(name, getattr(self, name), low=0.0, high=1.0)
        require_in_range("whitening", self.whitening, low=0.0, high=1.0)
        require_in_range("whitening_shrinkage", self.whitening_shrinkage, low=1e-6, high=1.0)
        require_choice("whitening_loss", self.whitening_loss, ("original", "whitened"))
        for name in ("beta1", "beta2"):
            require_in_range(name, getattr(self, name), low=0.0, high=1.0, below_high=True)
        for name in ("auxk", "afa", "sparsity", "multi_topk"):
            name = f"{name}_coefficient"
            require_in_range(name, getattr(self, name), low=0.0, high=1e6)
        require_tuple("loss_term", self.loss_term)
        _ = self.loss_terms  # checked
        require_positive_integer("multi_topk", self.multi_topk)
        if self.multi_topk == 1:
            raise InputError(
                "multi_topk is 1, which adds nothing; give 2 or more", field="multi_topk"
            )
        require_choice("precision", self.precision, get_args(Precision))
        require_choice("sparsity", self.sparsity, ("step", "tanh", "quadratic"))
        if self.tokens < self.rows_per_step:
            raise InputError(
                f"tokens is {self.tokens}, less than one batch of {self.rows_per_step}; "
                "raise tokens or lower batch_size",
                field="tokens",
            )

    def auxk_rows(self, n_rows: int) -> int:
        """Of how many of a batch's rows AuxK is taken: at least two, which have a variance."""
        return min(n_rows, max(2, math.ceil(self.auxk_fraction * n_rows)))

    @property
    def rows_per_step(self) -> int:
        """Rows of one update: `batch_size`, or where it is left open what follows from `tokens`."""
        return self.batch_size or derived_batch_size(self.tokens)

    @property
    def n_steps(self) -> int:
        """Updates of the whole run; the rest of a last incomplete batch is left out."""
        return self.tokens // self.rows_per_step

    def activation_settings(self, sae: SAEConfig) -> dict[str, Any]:
        """The settings that the autoencoder's activation takes and others may not, by name; of what
        is left open what it comes to."""
        settings = {name: getattr(self, name) for name in sae.training_settings}
        if "target_l0" in settings and self.target_l0 is None:
            settings["target_l0"] = DEFAULT_TARGET_L0
        return settings

    @cached_property
    def loss_terms(self) -> dict[str, float]:
        """The coefficients of `loss_term`, by the terms' names.

        Raises InputError if one is wrong.
        """
        return parse_loss_terms(self.loss_term)

    def validate_for(self, sae: SAEConfig) -> None:
        """Raise an InputError if the autoencoder cannot be trained so."""
        refused = self.multi_topk_coefficient or self.ema_decay is not None
        refused = refused or sae.prefixes or sae.transcoder or self.loss_term or sae.lista_step
        if self.shards > 1 and (refused or not sae.can_be_sharded):
            raise InputError(
                f"shards is {self.shards}, but only topk without target site, prefixes, "
                "Multi-TopK loss, further loss terms, LISTA step and averages can be cut; leave it "
                "out",
                field="shards",
            )
        if self.shards > 1 and self.shard_optimizer:
            raise InputError(
                f"shard_optimizer is on, but with shards {self.shards} each process has the "
                "moments of its own latents alone already; leave one of the two out",
                field="shard_optimizer",
            )
        if self.cuda_graph and (self.shards > 1 or self.loss_term or not sae.can_be_captured):
            raise InputError(
                "cuda_graph is on, but only steps of topk without shards and further loss terms "
                "never wait for the host, as a graph must; leave it out",
                field="cuda_graph",
            )
        if self.cuda_graph and sae.lista_step:
            raise InputError(
                f"cuda_graph is on, but steps with lista_step {sae.lista_step:g} are not recorded; "
                "leave one of the two out",
                field="cuda_graph",
            )
        if self.multi_topk_coefficient and sae.lista_step:
            raise InputError(
                f"multi_topk_coefficient is {self.multi_topk_coefficient:g}, but with lista_step "
                f"{sae.lista_step:g} the k largest latents of a row are not among its larger "
                "number; leave one of the two out",
                field="multi_topk_coefficient",
            )
        if self.multi_topk_coefficient and (
            "multi_topk_coefficient" not in sae.training_settings or sae.prefixes
        ):
            raise InputError(
                f"multi_topk_coefficient is {self.multi_topk_coefficient:g}, but only topk without "
                "prefixes has that loss; leave it out",
                field="multi_topk_coefficient",
            )
        require_target_for(sae, self.target_l0)
        if self.whitening:
            self._require_whitening(sae)
        if self.k_start is None:
            return
        if sae.latents_of_row is None or "k_start" not in sae.training_settings:
            raise InputError(
                f"k_start is {self.k_start}, but {sae.activation} has no k that it could fall to; "
                "leave it out",
                field="k_start",
            )
        if not sae.latents_of_row <= self.k_start <= sae.n_latents:
            raise InputError(
                f"k_start is {self.k_start}, but must lie between k, {sae.latents_of_row}, and the "
                f"{sae.n_latents} latents",
                field="k_start",
            )

    def _require_whitening(self, sae: SAEConfig) -> None:
        """Raise an InputError if the autoencoder's rows cannot be whitened in its training."""
        if sae.transcoder:
            remedy = "but a transcoder predicts other activations than those it reads; leave it out"
        elif not sae.can_be_whitened:
            remedy = (
                f"but which latents {sae.activation} keeps does not depend on their "
                "pre-activations alone, and would change when it is folded into the weights; "
                "leave it out, or choose activation topk, batch_topk or jumprelu"
            )
        elif self.shards > 1 or self.cuda_graph:
            name = "cuda_graph" if self.cuda_graph else "shards"
            remedy = f"but steps with {name} take rows as they are; leave one of the two out"
        elif self.multi_topk_coefficient and self.whitening_loss == "original":
            remedy = (
                "but the Multi-TopK loss compares rows in the units they are read in; leave one of "
                "the two out, or choose whitening_loss whitened"
            )
        else:
            return
        raise InputError(f"whitening is {self.whitening:g}, {remedy}", field="whitening")


def require_variance_of(name: str, rows: int) -> None:
    """Raise an InputError if so few rows have no variance, of which FVU is a fraction."""
    if rows < 2:
        raise InputError(
            f"{name} is {rows}, but one row has no variance to explain; give 2 or more",
            field=name,
        )
