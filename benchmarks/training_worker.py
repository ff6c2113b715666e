"""One competitor of bench_training.py, in a process and an environment of its own.

It answers requests, a JSON object a line: {"do": "step", "number": N} trains on batch N and says
the seconds it took; {"do": "finish"} says FVU on held-out rows and the memory that training needed.
Whatever the libraries print goes to standard error.
"""

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

LR = 3e-4


class Sizes(argparse.Namespace):
    """The command's arguments."""

    competitor: str
    rows: str
    batch: int
    latents: int
    k: int
    held_out: int
    threads: int
    dead: bool


class Sparsteer:
    """`Trainer.step`, as `sparsteer train` calls it."""

    def __init__(self, sizes: Sizes, W_FD: Tensor) -> None:
        sae_module = importlib.import_module("sparsteer.sae")
        training = importlib.import_module("sparsteer.training")
        self.sae = sae_module.SparseAutoencoder(
            sae_module.TopKConfig(W_FD.shape[1], sizes.latents, sizes.k)
        )
        with torch.no_grad():
            self.sae.W_enc.copy_(W_FD)
            self.sae.W_dec.copy_(W_FD)
        config = training.TrainerConfig(lr=LR, warmup_fraction=0.0, decay_fraction=0.0)
        malloc = importlib.import_module("sparsteer.training.runtime.malloc")
        malloc.keep_freed_memory()  # as `sparsteer train` does
        self.trainer = training.Trainer(self.sae, config)
        self.dead = sizes.dead

    def step(self, x: Tensor) -> None:
        if self.dead:
            self.trainer.tokens_since_fired[::2] = self.trainer.dead_after_tokens
        self.trainer.step(x)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.sae(x)


class SparsteerFreeRows(Sparsteer):
    """Without what no setting can switch off: decoder rows of norm 1."""

    def __init__(self, sizes: Sizes, W_FD: Tensor) -> None:
        super().__init__(sizes, W_FD)
        self.trainer.optimizer.unit_rows = frozenset()


class SAELens:
    """`SAETrainer._train_step`: its default settings."""

    settings: ClassVar[dict[str, Any]] = {}

    def __init__(self, sizes: Sizes, W_FD: Tensor) -> None:
        topk = importlib.import_module("sae_lens.saes.topk_sae")
        trainer = importlib.import_module("sae_lens.training.sae_trainer")
        config = importlib.import_module("sae_lens.config")
        width = W_FD.shape[1]
        self.sae = topk.TopKTrainingSAE(
            topk.TopKTrainingSAEConfig(
                d_in=width,
                d_sae=sizes.latents,
                k=sizes.k,
                apply_b_dec_to_input=True,
                **self.settings,
            )
        )
        with torch.no_grad():
            self.sae.W_enc.copy_(W_FD.T)
            self.sae.W_dec.copy_(W_FD)
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
            self.trainer.n_forward_passes_since_fired[::2] = window + 1
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

    def __init__(self, sizes: Sizes, W_FD: Tensor) -> None:
        if not torch.cuda.is_available():
            os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # it would launch its kernel all the same
        coder = importlib.import_module("sparsify.sparse_coder")
        config = importlib.import_module("sparsify.config")
        self.sae = coder.SparseCoder(
            W_FD.shape[1], config.SparseCoderConfig(num_latents=sizes.latents, k=sizes.k)
        )
        with torch.no_grad():
            self.sae.encoder.weight.copy_(W_FD)
            self.sae.W_dec.copy_(W_FD)
        self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=LR)
        self.since_fired = torch.zeros(sizes.latents, dtype=torch.long)
        self.dead = sizes.dead

    def step(self, x: Tensor) -> None:
        self.sae.set_decoder_norm_to_unit_norm()
        if self.dead:
            self.since_fired[::2] = 10_000_001
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

    def __init__(self, sizes: Sizes, W_FD: Tensor) -> None:
        top_k = importlib.import_module("dictionary_learning.trainers.top_k")
        self.trainer = top_k.TopKTrainer(
            steps=10**6,
            activation_dim=W_FD.shape[1],
            dict_size=sizes.latents,
            k=sizes.k,
            layer=0,
            lm_name="none",
            lr=LR,
            warmup_steps=0,
            device="cpu",
        )
        self.sae = self.trainer.ae
        with torch.no_grad():
            self.sae.encoder.weight.copy_(W_FD)
            self.sae.decoder.weight.copy_(W_FD.T)
        self.number = 0
        self.dead = sizes.dead

    def step(self, x: Tensor) -> None:
        self.number += 1  # its step 0 also computes a geometric median
        if self.dead:
            self.trainer.num_tokens_since_fired[::2] = self.trainer.dead_feature_threshold
        self.trainer.update(self.number, x)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.sae(x)


COMPETITORS = {
    "sparsteer": Sparsteer,
    "sparsteer, free rows": SparsteerFreeRows,
    "sparsify": Sparsify,
    "sae-lens": SAELens,
    "sae-lens sparse": SAELensSparse,
    "dictionary_learning": DictionaryLearning,
}


def peak_megabytes() -> float:
    """The peak resident memory of this program; `getrusage` would start from its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def fvu(competitor: Any, x: Tensor) -> float:
    with torch.no_grad():
        missed = (competitor.reconstruct(x) - x).square().sum()
        return float(missed / (x - x.mean(0)).square().sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("competitor", choices=COMPETITORS)
    parser.add_argument("--rows", required=True)
    for name in ("batch", "latents", "k", "held-out", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--dead", action="store_true")
    sizes = parser.parse_args(namespace=Sizes())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(sizes.threads)
    rows = np.load(sizes.rows, mmap_mode="r", allow_pickle=False)
    generator = torch.Generator().manual_seed(0)
    directions_FD = torch.randn(sizes.latents, rows.shape[1], generator=generator)
    W_FD = torch.nn.functional.normalize(directions_FD, dim=-1)
    n_batches = (len(rows) - sizes.held_out) // sizes.batch
    before = peak_megabytes()
    competitor = COMPETITORS[sizes.competitor](sizes, W_FD)

    def answer(values: dict[str, Any]) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    answer({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "step":
            start = request["number"] % n_batches * sizes.batch
            x = torch.as_tensor(np.array(rows[start : start + sizes.batch]))
            started = time.perf_counter()
            competitor.step(x)
            answer({"seconds": time.perf_counter() - started})
        else:
            peak = peak_megabytes()
            held_out = torch.as_tensor(np.array(rows[-sizes.held_out :]))
            answer({"fvu": fvu(competitor, held_out), "megabytes": peak - before})


if __name__ == "__main__":
    main()
