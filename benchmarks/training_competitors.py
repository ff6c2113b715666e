"""The libraries that bench_training.py compares, each driven as its own training drives it.

Nothing here imports a library before it is asked for: each has an environment of its own.
"""

import argparse
import importlib
import os
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

LR = 3e-4
DEAD = slice(None, None, 10)
"""Latents that are made to count as dead, where any are."""


class Weights(NamedTuple):
    """Those that training begins with."""

    b_dec: Tensor
    """[D]"""
    W_enc: Tensor
    """[F, D]"""
    b_enc: Tensor
    """[F]"""
    W_dec: Tensor
    """[F, D], rows of norm 1."""


class Sizes(argparse.Namespace):
    """The command's arguments."""

    competitor: str
    rows: str
    start: str
    batch: int
    k: int
    held_out: int
    threads: int
    dead: bool


class Sparsteer:
    """`Trainer.step`, as `sparsteer train` calls it."""

    def __init__(self, sizes: Sizes, start: Weights) -> None:
        sae_module = importlib.import_module("sparsteer.sae")
        training = importlib.import_module("sparsteer.training")
        n_latents, width = start.W_enc.shape
        self.sae = sae_module.SparseAutoencoder(sae_module.TopKConfig(width, n_latents, sizes.k))
        with torch.no_grad():
            for name, weights in start._asdict().items():
                getattr(self.sae, name).copy_(weights)
        config = training.TrainerConfig(lr=LR, warmup_fraction=0.0, decay_fraction=0.0)
        malloc = importlib.import_module("sparsteer.training.runtime.malloc")
        malloc.keep_freed_memory()  # as `sparsteer train` does
        self.trainer = training.Trainer(self.sae, config)
        self.dead = sizes.dead

    def step(self, x: Tensor) -> None:
        if self.dead:
            self.trainer.tokens_since_fired[DEAD] = self.trainer.dead_after_tokens
        self.trainer.step(x)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.sae(x)

    def verified(self, x: Tensor) -> float | None:
        """The fraction of rows that screening in bfloat16 verifies; None where it does not run."""
        return importlib.import_module("verified_rows").verified_fraction(self.sae, x)


class SparsteerWithDead(Sparsteer):
    """With a tenth of the latents dead, so that AuxK works at every step."""

    def __init__(self, sizes: Sizes, start: Weights) -> None:
        super().__init__(sizes, start)
        self.dead = True


class PlainSparse:
    """plain_sparse.py: PyTorch alone."""

    def __init__(self, sizes: Sizes, start: Weights) -> None:
        plain = importlib.import_module("plain_sparse")
        self.trainer = plain.PlainSparseTrainer(**start._asdict(), k=sizes.k, lr=LR)

    def step(self, x: Tensor) -> None:
        self.trainer.step(x)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.trainer.decode(*self.trainer.encode(x))


class SAELens:
    """`SAETrainer._train_step`: its default settings."""

    settings: ClassVar[dict[str, Any]] = {}

    def __init__(self, sizes: Sizes, start: Weights) -> None:
        topk = importlib.import_module("sae_lens.saes.topk_sae")
        trainer = importlib.import_module("sae_lens.training.sae_trainer")
        config = importlib.import_module("sae_lens.config")
        n_latents, width = start.W_enc.shape
        self.sae = topk.TopKTrainingSAE(
            topk.TopKTrainingSAEConfig(
                d_in=width,
                d_sae=n_latents,
                k=sizes.k,
                apply_b_dec_to_input=True,
                **self.settings,
            )
        )
        with torch.no_grad():
            for name, weights in start._replace(W_enc=start.W_enc.T)._asdict().items():
                getattr(self.sae, name).copy_(weights)
        self.trainer = trainer.SAETrainer(
            config.SAETrainerConfig(
                total_training_samples=10**9, train_batch_size_samples=sizes.batch, lr=LR, lr_end=LR
            ),
            self.sae,
            data_provider=iter(()),
        )
        self.dead = sizes.dead

    def step(self, x: Tensor) -> None:
        if self.dead:
            window = self.trainer.cfg.dead_feature_window
            self.trainer.n_forward_passes_since_fired[DEAD] = window + 1
        self.trainer._train_step(self.sae, x)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.sae(x)


class SAELensSparse(SAELens):
    """Its fastest settings that run on a CPU: sparse activations, no rescaling."""

    settings: ClassVar[dict[str, Any]] = {
        "use_sparse_activations": True,
        "rescale_acts_by_decoder_norm": False,
    }


class Sparsify:
    """The body of its training loop with Adam; it has no public function for one step."""

    def __init__(self, sizes: Sizes, start: Weights) -> None:
        if not torch.cuda.is_available():
            os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # it would launch its kernel all the same
        coder = importlib.import_module("sparsify.sparse_coder")
        config = importlib.import_module("sparsify.config")
        n_latents, width = start.W_enc.shape
        self.sae = coder.SparseCoder(
            width, config.SparseCoderConfig(num_latents=n_latents, k=sizes.k)
        )
        with torch.no_grad():
            self.sae.encoder.weight.copy_(start.W_enc)
            self.sae.encoder.bias.copy_(start.b_enc)
            self.sae.W_dec.copy_(start.W_dec)
            self.sae.b_dec.copy_(start.b_dec)
        self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=LR)
        self.since_fired = torch.zeros(n_latents, dtype=torch.long)
        self.dead = sizes.dead

    def step(self, x: Tensor) -> None:
        self.sae.set_decoder_norm_to_unit_norm()
        if self.dead:
            self.since_fired[DEAD] = 10_000_001
        out = self.sae(x, dead_mask=self.since_fired > 10_000_000)
        (out.fvu + out.auxk_loss / 32).backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        self.optimizer.step()  # pyright: ignore[reportUnknownMemberType] - its closure is untyped
        self.optimizer.zero_grad()
        self.since_fired += len(x)
        self.since_fired[out.latent_indices.flatten()] = 0

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.sae(x).sae_out


class DictionaryLearning:
    """`TopKTrainer.update`."""

    def __init__(self, sizes: Sizes, start: Weights) -> None:
        top_k = importlib.import_module("dictionary_learning.trainers.top_k")
        n_latents, width = start.W_enc.shape
        self.trainer = top_k.TopKTrainer(
            steps=10**6,
            activation_dim=width,
            dict_size=n_latents,
            k=sizes.k,
            layer=0,
            lm_name="none",
            lr=LR,
            warmup_steps=0,
            device="cpu",
        )
        self.sae = self.trainer.ae
        with torch.no_grad():
            self.sae.encoder.weight.copy_(start.W_enc)
            self.sae.encoder.bias.copy_(start.b_enc)
            self.sae.decoder.weight.copy_(start.W_dec.T)
            self.sae.b_dec.copy_(start.b_dec)
        self.number = 0
        self.dead = sizes.dead

    def step(self, x: Tensor) -> None:
        self.number += 1  # its step 0 also computes a geometric median
        if self.dead:
            self.trainer.num_tokens_since_fired[DEAD] = self.trainer.dead_feature_threshold
        self.trainer.update(self.number, x)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.sae(x)


COMPETITORS = {
    "sparsteer": Sparsteer,
    "sparsteer, a tenth dead": SparsteerWithDead,
    "plain sparse PyTorch": PlainSparse,
    "sparsify": Sparsify,
    "sae-lens": SAELens,
    "sae-lens sparse": SAELensSparse,
    "dictionary_learning": DictionaryLearning,
}
