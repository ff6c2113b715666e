"""What bench_training.py trains: on which rows, how large an autoencoder, from which weights."""

import argparse
import hashlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmark_rows import HELD_OUT, BenchmarkRows, Kind, benchmark_folder
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType] - untyped
from torch import Tensor
from training_competitors import LR

from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.training import Trainer, TrainerConfig
from sparsteer.training.runtime.malloc import keep_freed_memory

_NAME = re.compile(
    r"(?P<kind>real|made-up)-(?P<latents>\d+)-(?P<k>\d+)(-after-(?P<steps>\d+))?(?P<dead>-dead)?"
)
WEIGHTS = ("b_dec", "W_enc", "b_enc", "W_dec")
N_BATCHES = 32
"""Batches of rows to train on, which come again and again."""


@dataclass(frozen=True)
class TrainingCase:
    """One race of the libraries."""

    kind: Kind
    latents: int
    k: int
    trained_steps: int = 0
    """Steps that the weights have been trained for before the race."""
    dead: bool = False
    """Whether a tenth of the latents count as dead, for all libraries."""

    @property
    def name(self) -> str:
        """As `parse` reads it."""
        words = [self.kind, self.latents, self.k]
        words += [f"after-{self.trained_steps}"] * bool(self.trained_steps) + ["dead"] * self.dead
        return "-".join(map(str, words))

    @classmethod
    def parse(cls, name: str) -> "TrainingCase":
        """From KIND-LATENTS-K, then -after-STEPS and -dead if need be; KIND is real or made-up.

        Raises:
            argparse.ArgumentTypeError: it is nothing of the kind.
        """
        found = _NAME.fullmatch(name)
        if found is None:
            form = "KIND-LATENTS-K[-after-STEPS][-dead] with a KIND of real or made-up"
            raise argparse.ArgumentTypeError(f"{name!r} is not {form}, such as {DEFAULT[0]}")
        kind: Kind = "real" if found["kind"] == "real" else "made-up"
        steps, dead = int(found["steps"] or 0), found["dead"] is not None
        return cls(kind, int(found["latents"]), int(found["k"]), steps, dead)


DEFAULT = [
    "real-4608-32",
    "real-4608-32-after-300",
    "real-12288-32",
    "real-12288-32-after-300",
    "real-12288-64-after-300",
    "made-up-12288-32",
    "made-up-12288-32-after-300",
    "real-12288-32-after-300-dead",
]


def starting_weights(case: TrainingCase, rows: BenchmarkRows, batch: int) -> dict[str, Tensor]:
    """What every library begins with: random directions, or the weights that came of
    `trained_steps` steps, which are kept in the user's cache folder. On the CPU, by name."""
    rows_ND = rows.scaled_ND[:-HELD_OUT]
    if not case.trained_steps:
        return random_weights(rows_ND, case.latents)
    kept = benchmark_folder() / f"start-{_digest(case, rows, batch)}.safetensors"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        print(f"training {case.trained_steps} steps, once, into {kept}", file=sys.stderr)
        save_weights(kept, trained_weights(case, rows_ND, batch))
    return load_file(kept)


def random_weights(rows_ND: Tensor, n_latents: int) -> dict[str, Tensor]:
    """Random unit directions for encoder and decoder, and the rows' mean as b_dec."""
    generator = torch.Generator().manual_seed(0)
    directions_FD = torch.randn(n_latents, rows_ND.shape[1], generator=generator)
    W_FD = torch.nn.functional.normalize(directions_FD, dim=-1)
    b_enc = torch.zeros(n_latents)
    return {"b_dec": rows_ND.mean(0), "W_enc": W_FD, "b_enc": b_enc, "W_dec": W_FD}


def trained_weights(case: TrainingCase, rows_ND: Tensor, batch: int) -> dict[str, Tensor]:
    """The weights after `trained_steps` batches, in the rows' order, again and again."""
    keep_freed_memory()  # as `sparsteer train` does
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sae = SparseAutoencoder(TopKConfig(rows_ND.shape[1], case.latents, case.k)).to(device)
    with torch.no_grad():
        for name, weights in random_weights(rows_ND, case.latents).items():
            getattr(sae, name).copy_(weights)
    tokens = case.trained_steps * batch
    trainer = Trainer(sae, TrainerConfig(tokens=tokens, batch_size=batch, lr=LR))
    n_batches = len(rows_ND) // batch
    for step in range(case.trained_steps):
        start = step % n_batches * batch
        trainer.step(rows_ND[start : start + batch].to(device), measured=False)
    return {name: getattr(sae, name).detach().cpu() for name in WEIGHTS}


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write them, whole or not at all."""
    temporary = path.with_suffix(f".{os.getpid()}.writing")
    save_file({name: tensor.clone() for name, tensor in weights.items()}, temporary)
    temporary.rename(path)


def _digest(case: TrainingCase, rows: BenchmarkRows, batch: int) -> str:
    """A name for what decides the weights, but for the code that trains them."""
    found = hashlib.sha256(rows.scaled_ND.numpy().data)
    found.update(f"{case.latents} {case.k} {case.trained_steps} {batch} {LR}".encode())
    return found.hexdigest()[:16]
